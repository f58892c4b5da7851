"""The losses and metrics of the objectives: exact under padding, and means over what they name."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from {{ cookiecutter.__package_name }}.engine import Best
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.text.batch import IGNORED, TextBatch
from {{ cookiecutter.__package_name }}.objectives import best_by, build_objective

VOCABULARY, LENGTH = 30, 12


def batch_of(n: int, objective: str, padding: int = 0) -> TextBatch:
    """Return n rows, and `padding` copies of the first that only fill the batch."""
    index = torch.cat([torch.arange(n), torch.zeros(padding, dtype=torch.int64)])
    tokens = torch.randint(2, VOCABULARY, (n, LENGTH), dtype=torch.int32)
    labels = torch.randn(n) if objective == "numbers" else torch.arange(n) % 3
    masked = torch.rand(n, LENGTH) < 0.3
    targets = tokens.long().where(masked, IGNORED) if objective == "masked" else None
    row = torch.arange(n + padding).where(torch.arange(n + padding) < n, -1)
    lengths = torch.full((n + padding,), LENGTH, dtype=torch.int32)
    targets = None if targets is None else targets[index]
    return TextBatch(tokens[index], None, lengths, labels[index], row, targets)


def outputs_of(batch: TextBatch, objective: str) -> torch.Tensor:
    """Return outputs of a network as it would compute them: equal for equal rows."""
    width = {"classes": 3, "numbers": 1, "masked": VOCABULARY}[objective]
    each = torch.sin(torch.arange(VOCABULARY * width).view(VOCABULARY, width) * 1.7)
    values = each[batch.tokens.long()]
    return values if objective == "masked" else values.sum(1)


@pytest.mark.parametrize("name", ["classes", "numbers", "masked"])
def test_rows_that_only_fill_a_batch_do_not_count(name):
    objective = build_objective(name, 3, VOCABULARY, 0.0 if name == "numbers" else 0.1)
    padded = batch_of(5, name, padding=3)
    whole = TextBatch(*(part if part is None else part[:5] for part in padded))
    found = objective.totals(outputs_of(padded, name), padded)
    expected = objective.totals(outputs_of(whole, name), whole)
    assert found.keys() == expected.keys() and "loss" in found
    for metric, totals in found.items():
        torch.testing.assert_close(totals, expected[metric])


@pytest.mark.parametrize("name", ["classes", "numbers", "masked"])
def test_the_loss_is_the_mean_that_the_totals_sum_up(name):
    objective, batch = build_objective(name, 3, VOCABULARY, 0.0), batch_of(6, name)
    outputs = outputs_of(batch, name)
    total, count = objective.totals(outputs, batch)["loss"]
    torch.testing.assert_close(objective.loss(outputs, batch), total / count)


def test_numbers_are_scaled_to_be_learned_and_predicted_in_their_unit():
    objective, batch = build_objective("numbers", 1, VOCABULARY, 0.0), batch_of(6, "numbers")
    labels = torch.tensor([10.0, 30.0, 10.0, 30.0, 10.0, 30.0])
    batch = batch._replace(labels=labels)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train_numbers=labels))
    assert "mean 20, deviation 10 " in objective.scale.measure(trainer)
    outputs = torch.ones(6, 1)
    assert objective.loss(outputs, batch) == 2  # half of the rows are two deviations away
    assert objective.predict(outputs).tolist() == [30.0] * 6
    totals = objective.totals(outputs, batch)
    assert [float(total / count) for total, count in totals.values()] == [2, 10]


def test_the_masked_loss_is_a_mean_over_tokens_by_its_weight():
    objective, batch = build_objective("masked", 0, VOCABULARY, 0.0), batch_of(6, "masked")
    outputs = outputs_of(batch, "masked").double()
    halves = [
        TextBatch(*(part if part is None else part[index] for part in batch))
        for index in (torch.arange(2), torch.arange(2, 6))
    ]
    weights = [objective.loss_weight(half) for half in halves]
    losses = [objective.loss(outputs[half.row], half) for half in halves]
    mean = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    torch.testing.assert_close(objective.loss(outputs, batch), mean, rtol=0, atol=1e-12)
    masked = batch.targets != IGNORED
    expected = cross_entropy(outputs[masked], batch.targets[masked])
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_a_batch_without_a_masked_token_has_the_loss_0():
    objective, batch = build_objective("masked", 0, VOCABULARY, 0.1), batch_of(4, "masked")
    batch = batch._replace(targets=torch.full_like(batch.targets, IGNORED))
    assert objective.loss_weight(batch) == 0
    assert objective.loss(outputs_of(batch, "masked"), batch) == 0


def test_predictions_of_classes_are_probabilities():
    objective, batch = build_objective("classes", 3, VOCABULARY, 0.0), batch_of(6, "classes")
    probabilities = objective.predict(outputs_of(batch, "classes"))
    assert probabilities.shape == (6, 3) and (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))


def test_class_weights_weigh_the_loss_and_only_classes_have_them():
    weights, batch = torch.tensor([1.0, 5.0, 0.5]), batch_of(6, "classes")
    objective, outputs = build_objective("classes", 3, VOCABULARY, 0, 0, weights), torch.randn(6, 3)
    expected = cross_entropy(outputs, batch.labels, weights)
    torch.testing.assert_close(objective.loss(outputs, batch), expected)
    assert objective.loss_weight(batch) == weights[batch.labels].sum()
    with pytest.raises(UserError, match="are for classes, but the objective is numbers"):
        build_objective("numbers", 1, VOCABULARY, 0, 2.0)


def test_label_smoothing_is_a_share_and_not_for_numbers():
    for name in ("classes", "masked"):
        with pytest.raises(UserError, match="label_smoothing is 2; expected a share"):
            build_objective(name, 3, VOCABULARY, 2)
    with pytest.raises(UserError, match="but the labels are numbers"):
        build_objective("numbers", 1, VOCABULARY, 0.1)


def test_label_smoothing_is_in_the_trained_loss_only():
    batch = batch_of(6, "classes")
    outputs = outputs_of(batch, "classes")
    plain, smooth = (build_objective("classes", 3, VOCABULARY, share) for share in (0.0, 0.1))
    assert plain.loss(outputs, batch) != smooth.loss(outputs, batch)
    assert plain.totals(outputs, batch) == smooth.totals(outputs, batch)


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ((), Best("val/accuracy", "max", ".2%")),
        (("accuracy", "f1"), Best("val/accuracy", "max", ".2%")),
        (("matthews",), Best("val/matthews", "max")),
    ],
)
def test_the_first_metric_selects_the_best_weights(metrics, best):
    assert best_by(metrics, build_objective("classes", 3, VOCABULARY, 0.0).best) == best
