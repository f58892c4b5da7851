"""What validation measures of classes in each epoch, as sums and counts that stay on the device."""

import torch
from torch import Tensor

from ..contract import Facts

TOP = 5


def class_totals(logits: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return precision, recall and F1, each a mean over classes, and how often the label is in TOP.

    Args:
        logits: of n rows, (n, classes).
        labels: int64 (n,), negative for rows that don't count.

    Returns:
        A task's totals: `precision_macro` (the share of what is said to be a class that is),
        `recall_macro` (the share of a class that is found), `f1_macro` (their harmonic mean) and,
        if there are more classes than that, `top5`.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    found = _counts(labels.where(predicted == labels, -1), classes)
    said, true = (_counts(each.where(labels >= 0, -1), classes) for each in (predicted, labels))
    totals = {
        "precision_macro": (found, said),
        "recall_macro": (found, true),
        "f1_macro": (2 * found, said + true),
    }
    if classes > TOP:
        among = (logits.topk(TOP, 1).indices == labels[:, None]).any(1)
        totals["top5"] = among.sum(), (labels >= 0).sum()
    return totals


def _counts(labels: Tensor, classes: int) -> Tensor:
    """Return how often each class is in `labels`, int64 (classes,); bincount waits for the GPU."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).sum(0)


def are_probabilities(predictions: Tensor, targets: Tensor | None, facts: Facts) -> bool:
    """Return whether predictions have a probability for each class, and targets are classes."""
    fit = targets is None or targets.ndim == (2 if facts.several else 1)
    return bool(facts.classes) and predictions.shape[1:] == (len(facts.classes),) and fit


def are_measurable(predictions: Tensor, targets: Tensor | None, facts: Facts) -> bool:
    """Return whether predictions are such probabilities, and targets are known classes."""
    known = targets is not None and (facts.several or not targets.is_floating_point())
    return known and are_probabilities(predictions, targets, facts)


def are_kept(predictions: Tensor, targets: Tensor | None, facts: Facts | None) -> bool:
    """Return whether an evaluation writes the predictions: they are measurable, or one number.

    `facts` is None while training, which keeps none.
    """
    if facts is None or targets is None:
        return False
    numbers = predictions.ndim == 1 and targets.ndim == 1
    return numbers or are_measurable(predictions, targets, facts)
