"""Metrics of a whole split by name: GLUE's (Wang et al., 2019), by scikit-learn and scipy."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..errors import UserError


def _accuracy(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found == expected).mean())


def _f1(found: np.ndarray, expected: np.ndarray) -> float:
    """Return F1 of class 1 of two."""
    from sklearn.metrics import f1_score

    return float(f1_score(expected, found))


def _macro_f1(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean F1 of all classes that are found or expected."""
    from sklearn.metrics import f1_score

    return float(f1_score(expected, found, average="macro"))


def _matthews(found: np.ndarray, expected: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(expected, found))


def _pearson(found: np.ndarray, expected: np.ndarray) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(found, expected).statistic)


def _spearman(found: np.ndarray, expected: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(found, expected).statistic)


Metric = Callable[[np.ndarray, np.ndarray], float]
OF_CLASSES: dict[str, Metric] = {"accuracy": _accuracy, "f1": _f1, "matthews": _matthews}
OF_NUMBERS: dict[str, Metric] = {"pearson": _pearson, "spearman": _spearman}


def check_metrics(names: Sequence[str], objective: str) -> None:
    """Raise UserError if a metric is unknown, or not for what the network learns."""
    fitting = {"classes": OF_CLASSES, "numbers": OF_NUMBERS}.get(objective, {})
    for name in names:
        if name not in fitting:
            raise UserError(
                f"data.options.metrics has '{name}'; expected {' or '.join(fitting) or 'nothing'},"
                f" as the objective is {objective}."
            )


def scores_of(names: Sequence[str], predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """Return metrics by name.

    Args:
        names: accuracy, f1 or matthews for classes; pearson or spearman for numbers. f1 is that of
            class 1 of two, or the mean over more classes.
        predictions: of n rows, probabilities (n, classes) or numbers (n,).
        targets: (n,), class indices or numbers.

    Correlations with predictions that are all the same are not defined: NaN.
    """
    expected = targets.cpu().numpy()
    known: dict[str, Metric] = OF_NUMBERS
    found = predictions.cpu().double().numpy()
    if predictions.ndim == 2:
        known = OF_CLASSES | ({"f1": _macro_f1} if predictions.shape[1] > 2 else {})
        found = found.argmax(1)
    with warnings.catch_warnings(action="ignore"):  # of constant predictions
        return {name: known[name](found, expected) for name in names}
