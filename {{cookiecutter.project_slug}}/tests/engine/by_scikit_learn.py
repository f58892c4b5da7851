"""Metrics of a whole split as scikit-learn computes them, to compare with."""

import numpy as np
from sklearn import metrics

Scores = dict[str, float]
WITH_NAN = {"average": None, "zero_division": np.nan}
PARTS = ("precision", "recall", "f1")


def of_classes(shares: np.ndarray, labels: np.ndarray) -> tuple[Scores, dict[str, np.ndarray]]:
    """Return the scores of probabilities (n, C) with labels (n,), and those of each class.

    NaN is the score of a class that has none; macro averages are means over the others.
    """
    classes, predicted = list(range(shares.shape[1])), shares.argmax(1)
    each = _parts(labels, predicted, labels=classes)
    each["auroc"] = np.array([_area(labels == c, shares[:, c]) for c in classes])
    scores = {f"{name}_macro": np.nanmean(each[name]) for name in PARTS}
    weighted = {"average": "weighted", "zero_division": 0, "labels": classes}
    parts = metrics.precision_recall_fscore_support(labels, predicted, **weighted)
    scores |= {f"{name}_weighted": part for name, part in zip(PARTS, parts, strict=False)}
    scores["auroc"] = np.nanmean(each["auroc"])
    scores["accuracy"] = metrics.accuracy_score(labels, predicted)
    scores["loss"] = metrics.log_loss(labels, shares / shares.sum(1, keepdims=True), labels=classes)
    if len(classes) > 5:
        scores["top5"] = metrics.top_k_accuracy_score(labels, shares, k=5, labels=classes)
    scores["calibration_error"] = _calibration_error(shares.max(1), predicted == labels)
    return scores, each


def of_labels(shares: np.ndarray, targets: np.ndarray) -> tuple[Scores, dict[str, np.ndarray]]:
    """Return the scores of probabilities (n, C) with targets (n, C), and those of each label."""
    each = _parts(targets, shares > 0.5)
    columns = list(zip(targets.T, shares.T, strict=True))
    precisions = [
        metrics.average_precision_score(*column) if column[0].any() else np.nan
        for column in columns
    ]
    each["average_precision"] = np.array(precisions)
    each["auroc"] = np.array([_area(*column) for column in columns])
    scores = {f"{name}_macro": np.nanmean(each[name]) for name in PARTS}
    scores["f1_micro"] = metrics.f1_score(targets, shares > 0.5, average="micro")
    scores["map"] = np.nanmean(each["average_precision"])
    scores["auroc"] = np.nanmean(each["auroc"])
    scores["loss"] = metrics.log_loss(targets.ravel(), shares.ravel(), labels=[0, 1])
    return scores, each


def of_numbers(
    found: np.ndarray, targets: np.ndarray, trained: np.ndarray
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Return the scores of numbers (n,), learned on the scale of `trained`; no classes."""
    scores = {"loss": metrics.mean_squared_error(targets, found) / np.var(trained)}
    scores["mae"] = metrics.mean_absolute_error(targets, found)
    scores["r2"] = metrics.r2_score(targets, found)
    return scores, {}


def _parts(known: np.ndarray, said: np.ndarray, **options: list[int]) -> dict[str, np.ndarray]:
    parts = metrics.precision_recall_fscore_support(known, said, **WITH_NAN, **options)
    return dict(zip(PARTS, parts, strict=False))


def _area(has: np.ndarray, shares: np.ndarray) -> float:
    return metrics.roc_auc_score(has, shares) if 0 < has.sum() < len(has) else np.nan


def _calibration_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Return what scikit-learn lacks: the mean distance of confidence and accuracy in 15 bins."""
    error = 0.0
    for low in range(15):
        those = (sure >= low / 15) & ((sure < (low + 1) / 15) | (low == 14))
        error += abs(sure[those].sum() - right[those].sum()) / len(sure)
    return error
