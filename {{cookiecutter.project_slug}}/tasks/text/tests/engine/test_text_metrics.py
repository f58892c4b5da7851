"""GLUE's metrics equal those of scikit-learn and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from {{ cookiecutter.__package_name }}.engine import UserError
from {{ cookiecutter.__package_name }}.engine.text.metrics import (
    check_metrics,
    scores_of,
)

N = 200


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_classes(classes):
    targets = torch.randint(classes, (N,))
    predictions = (torch.randn(N, classes) + 2 * torch.eye(classes)[targets]).softmax(1)
    found, expected = predictions.argmax(1).numpy(), targets.numpy()
    average = "binary" if classes == 2 else "macro"
    assert scores_of(["accuracy", "f1", "matthews"], predictions, targets) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(expected, found),
            "f1": metrics.f1_score(expected, found, average=average),
            "matthews": metrics.matthews_corrcoef(expected, found),
        }
    )


def test_f1_of_three_classes_is_a_mean_also_if_the_third_does_not_occur():
    predictions = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]])
    found = scores_of(["f1"], predictions, torch.tensor([0, 1, 0]))["f1"]
    assert found == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_metrics_of_numbers(dtype):
    targets = torch.randn(N, dtype=dtype)
    predictions = targets + torch.randn(N, dtype=dtype)
    predictions[::5] = 1.0  # ties
    found, expected = predictions.numpy().astype(float), targets.numpy().astype(float)
    assert scores_of(["pearson", "spearman"], predictions, targets) == pytest.approx(
        {
            "pearson": stats.pearsonr(found, expected).statistic,
            "spearman": stats.spearmanr(found, expected).statistic,
        }
    )
    assert abs(np.corrcoef(found, expected)[0, 1]) > 0.3


def test_the_correlation_with_a_constant_is_not_defined(recwarn):
    found = scores_of(["pearson", "spearman"], torch.ones(5), torch.arange(5.0))
    assert all(math.isnan(value) for value in found.values())
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "objective", "expected"),
    [
        ("f2", "classes", "accuracy or f1 or matthews"),
        ("pearson", "classes", "accuracy or f1 or matthews"),
        ("f1", "numbers", "pearson or spearman"),
        ("f1", "masked", "nothing"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(name, objective, expected):
    with pytest.raises(UserError, match=f"has '{name}'; expected {expected}, as the objective"):
        check_metrics(["accuracy", name] if objective == "classes" else [name], objective)
    check_metrics({"classes": ["f1"], "numbers": ["pearson"]}.get(objective, []), objective)
