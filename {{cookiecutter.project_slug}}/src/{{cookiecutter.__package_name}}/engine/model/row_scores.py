"""Scores of a whole split that are no ratio of sums over rows."""

import math

import numpy as np
import torch
from torch import Tensor


def average_precisions(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision of each label, float64 (C,); NaN if no row has it.

    It is the mean precision at the probabilities of the rows that have the label; rows with the
    same probability count together, as in scikit-learn's average_precision_score.

    Args:
        probabilities: of n rows, (n, C), on the CPU.
        targets: (n, C), above 0 where a row has the label.
    """
    found = [
        _average_precision(column, has)
        for column, has in zip(probabilities.numpy().T, targets.numpy().T > 0, strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


def _average_precision(probabilities: np.ndarray, has: np.ndarray) -> float:
    if not has.any():
        return math.nan
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # row of each probability
    right = np.cumsum(has[order])[last]
    gained = np.diff(right, prepend=0)
    return float((gained * right / (last + 1)).sum() / right[-1])


def r2(predictions: Tensor, targets: Tensor) -> float:
    """Return the coefficient of determination of numbers (n,); NaN if all targets are the same."""
    known = targets.double()
    spread = (known - known.mean()).square().sum()
    left = (predictions.double() - known).square().sum()
    return float(1 - left / spread) if spread > 0 else math.nan
