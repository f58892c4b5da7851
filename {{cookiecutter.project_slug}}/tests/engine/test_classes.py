"""Metrics of classes, the best run by any of them, and what helps classes with few images."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import by_scikit_learn
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch.nn.functional import cross_entropy

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.data.classes import remarks_on
from {{ cookiecutter.__package_name }}.engine.model.best import chosen_best
from {{ cookiecutter.__package_name }}.engine.model.class_totals import (
    class_totals,
)
from {{ cookiecutter.__package_name }}.engine.model.label_loss import (
    LabelLoss,
    weights_of_classes,
)
from {{ cookiecutter.__package_name }}.engine.model.means import RunningTotals
from {{ cookiecutter.__package_name }}.engine.monitor.class_report import measure
from {{ cookiecutter.__package_name }}.engine.run.checkpoint import RunCheckpoint
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics

DIGITS = ("--config", "configs/digits.yaml")
RARE, COMMON = 20, 1000


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of grey images that overlap, one with a fiftieth of the images."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 1), ("val", 0.2), ("test", 0.5)):
        for name, n, mean in (("common", COMMON, 110), ("rare", RARE, 150)):
            (folder / part / name).mkdir(parents=True)
            for i in range(int(n * count) * (1 if part == "train" or name == "common" else 5)):
                shade = draw.normal(mean, 20)
                pixels = draw.normal(shade, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture(params=[2, 3, 12], ids="{} classes".format)
def rows(request) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of 400 rows; the last class is never predicted, one before has no row."""
    classes, generator = request.param, torch.Generator().manual_seed(request.param)
    labels = torch.randint(0, classes, (400,), generator=generator)
    if classes > 2:
        labels[labels == classes - 2] = 0
    logits = torch.randn(400, classes, generator=generator)
    logits += 2 * torch.nn.functional.one_hot(labels, classes)
    if classes > 2:
        logits[:, -1] -= 9
    return logits, labels


def expected(logits: torch.Tensor, labels: torch.Tensor) -> tuple[dict, dict]:
    """Return scikit-learn's scores of a split, and those of each class, NaN where it has none."""
    return by_scikit_learn.of_classes(logits.double().softmax(1).numpy(), labels.numpy())


def test_all_metrics_are_those_of_scikit_learn(rows):
    logits, labels = rows
    found, (scores, each) = measure(logits.double().softmax(1), labels), expected(logits, labels)
    del scores["loss"]
    assert found.scores == pytest.approx(scores, abs=1e-6)
    for name, values in found.of_classes.items():
        np.testing.assert_allclose(values, each[name], atol=1e-6)
    matrix = metrics.confusion_matrix(labels, logits.argmax(1), labels=range(logits.shape[1]))
    assert found.confusion.tolist() == matrix.tolist()


def test_metrics_of_each_epoch_are_exact_whatever_the_batches_and_their_padding(rows):
    logits, labels = rows
    running, (scores, _) = RunningTotals(), expected(logits, labels)
    for some, known in zip(logits.split(150), labels.split(150), strict=True):
        padding = torch.full((150 - len(known),), -100)
        padded = torch.cat([some, torch.zeros(len(padding), logits.shape[1])])
        running.add(class_totals(padded, torch.cat([known, padding])))
    found = {name: float(value) for name, value in running.means().items()}
    assert {"precision_macro", "recall_macro", "f1_macro"} <= found.keys() <= scores.keys()
    assert found == pytest.approx({name: scores[name] for name in found}, abs=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_weighted_loss_is_the_same_in_one_part_and_in_several(gamma, mixed):
    loss = LabelLoss(0.1, gamma, torch.tensor([1.0, 0.0, 7.0])).double()
    logits, labels = torch.randn(60, 3).double().requires_grad_(), torch.randint(0, 3, (60,))
    second = (torch.randint(0, 3, (60,)), torch.rand(60).double()) if mixed else ()
    whole = loss(logits, labels, *second)
    parts = [[part[i : i + 15] for part in (labels, *second)] for i in range(0, 60, 15)]
    weights = [loss.weight(*part) for part in parts]
    losses = [loss(logits[15 * i :][:15], *part) for i, part in enumerate(parts)]
    summed = sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(summed, whole)
    assert torch.autograd.grad(whole, logits)[0].isfinite().all()
    nothing = loss(logits[:4], torch.ones(4, dtype=torch.int64))
    assert nothing.item() == 0  # a part without weight


def test_without_weights_and_gamma_the_loss_is_the_mean_cross_entropy_to_the_bit():
    logits, labels = torch.randn(64, 10), torch.randint(0, 10, (64,))
    found = LabelLoss(0.1, 0.0, None)(logits, labels)
    assert torch.equal(found, cross_entropy(logits, labels, label_smoothing=0.1))
    weights = torch.rand(10)
    found = LabelLoss(0.0, 0.0, weights)(logits, labels)
    torch.testing.assert_close(found, cross_entropy(logits, labels, weights))
    shares = logits.softmax(1)[torch.arange(64), labels]
    focal = (-((1 - shares) ** 2) * shares.log()).mean()
    torch.testing.assert_close(LabelLoss(0.0, 2.0, None)(logits, labels), focal)


def test_balanced_weights_give_each_class_the_same_sum():
    weights = weights_of_classes("balanced", {"a": 90, "b": 10, "none": 0})
    assert weights.tolist() == pytest.approx([100 / 180, 5, 0])
    assert weights_of_classes({"b": 3, 7: 2}, {"a": 1, "b": 1, "7": 1}).tolist() == [1, 3, 2]


def test_only_classes_with_few_images_are_remarked_on():
    assert remarks_on({"a": 10, "b": 100}, "images") == ()
    (said,) = remarks_on({"cat": 1000, "owl": 20}, "images")
    assert said.startswith("some classes have few training images: owl 20, cat 1,000.")
    (said,) = remarks_on({f"{i}": 10**i for i in range(12)}, "images")
    assert "5 100,000, …, 11 100,000,000,000." in said


def test_a_balanced_order_is_the_same_each_time_and_visits_classes_alike(images):
    orders = [[], []]
    for order in orders:
        options = {"source": "folder", "options": {"path": str(images)}, "image_size": 8}
        data = ImageData(**options, sampler="balanced", batch_size=51)
        plan = data.train_dataloader().plan
        order += [plan.indices(epoch) for epoch in (0, 1)]
    assert all(map(torch.equal, *orders)) and not torch.equal(*orders[0])
    weights = data.sample_weights[plan.rows_of(orders[0][0]).flatten()]
    assert 0.45 < (weights == 1 / RARE).double().mean() < 0.55


@pytest.mark.parametrize("loader", ["resident", "mapped", "streaming"])
def test_an_image_that_is_drawn_again_in_an_epoch_is_augmented_anew(loader, images):
    options = {"source": "folder", "options": {"path": str(images)}, "image_size": 8}
    data = ImageData(**options, sampler="balanced", batch_size=510, smallest_crop=1.0, flip=True)
    data.flags = replace(data.flags, loader=loader, workers=0)
    data.augmentation = replace(data.augmentation, crop_padding=2)
    shown: dict[int, set[bytes]] = {}
    for batch in data.train_dataloader():
        for row, image in zip(batch.row.tolist(), batch.images, strict=True):
            shown.setdefault(row, set()).add(image.contiguous().numpy().tobytes())
    assert all(0 <= row < data.splits.train.n for row in shown)
    rare = [len(each) for row, each in shown.items() if data.sample_weights[row] == 1 / RARE]
    assert len(rare) == RARE and min(rare) >= 2 + 8 * (loader != "streaming")


@pytest.mark.parametrize(
    ("asked", "logged", "mode"),
    [
        ("val/loss", ["val/loss"], "min"),
        ("val/calibration_error", None, "min"),
        ("val/f1_macro", None, "max"),
        ("val/cost min", ["val/cost"], "min"),
        ("val/accuracy", None, "max"),
    ],
)
def test_which_end_is_best_is_known_or_said(asked, logged, mode):
    own = ImageClassifier.best
    found = chosen_best(asked, own, logged)
    assert (found.metric, found.mode) == (asked.split()[0], mode)
    assert found.format == (own.format if found.metric == own.metric else ".4f")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--best=f1", "but validation logs val/loss, .* Did you mean 'val/f1_macro'"),
        ("--best=val/f1_makro", "but validation logs val/loss, .* Did you mean 'val/f1_macro'"),
        ("--best=val/accuracy high", "'high'; expected min or max, such as --best 'val/accuracy m"),
        ("--patience=0", "--patience is 0; expected 1 or more"),
        ("--model.class_weights={zero: 2}", "'zero', which is not a class of the data"),
        (
            "--model.class_weights={zero:2}",
            r"expected 'balanced' or a mapping \({name: value}\) or",
        ),
        ("--name=latest", "--name is 'latest', which stands for the newest run"),
        ("--model.lr=1", "unknown setting model.lr. Did you mean model.learning_rate"),
        ("--epochs=3", "unknown setting epochs. Did you mean trainer.max_epochs"),
        ("--config=digit", "digit does not exist. Did you mean 'configs/digits.yaml'"),
        (
            "--config=configs/digit.yaml",
            "digit.yaml does not exist. Did you mean 'configs/digits.yaml'",
        ),
        ("--data.options.siz=3", r"it does not take siz\."),
        ("--model.class_weights={3: -1}", "-1.0 for '3'; it must be at least 0"),
        ("--model.focal_gamma=-2", "model.focal_gamma is -2.0; it must be at least 0"),
        ("--data.sampler=fair", "data.sampler is 'fair'; expected 'balanced'"),
    ],
)
def test_a_wrong_choice_is_one_line_before_training(flags, message, call, capsys, tmp_path):
    assert call("fit", *DIGITS, flags, folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and re.search(message, error), error
    assert not (tmp_path / "metrics.csv").exists()


def imbalanced(images: Path) -> list[str]:
    source = ["--data.source=folder", f"--data.options.path={images}", "--data.loader=resident"]
    sizes = ["--data.image_size=8", "--data.batch_size=51", "--data.crop_padding=1"]
    sizes += ["--model.small_images=true", "--trainer.max_epochs=3"]
    return ["fit", *source, *sizes, "--model.learning_rate=0.05"]


@pytest.fixture(scope="module")
def left_as_it_is(images, call, tmp_path_factory) -> Path:
    """A tested run that does nothing about the few images of a class."""
    run = tmp_path_factory.mktemp("run")
    assert call(*imbalanced(images), folder=run) == 0
    assert call("test", "--run", str(run)) == 0
    return run


def recalls(run: Path) -> dict[str, float]:
    with (run / "test-classes.csv").open(newline="") as file:
        return {row["class"]: float(row["recall"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("flag", ["--data.sampler=balanced", "--model.class_weights=balanced"])
def test_balanced_finds_the_rare_class_that_the_default_misses(
    flag, images, left_as_it_is, call, tmp_path
):
    assert call(*imbalanced(images), flag, folder=tmp_path) == 0
    assert call("test", "--run", str(tmp_path)) == 0
    before, after = recalls(left_as_it_is), recalls(tmp_path)
    print(f"\n{flag}: recalls of {before}, and now of {after}")
    assert after["rare"] >= before["rare"] + 0.2


def test_an_evaluation_writes_what_its_predictions_come_to(left_as_it_is, call, capsys):
    record = json.loads((left_as_it_is / "run.json").read_text())
    (remark,) = record["data"]["remarks"]
    assert "few training images: rare 20, common 1,000" in remark
    assert call("predict", "--run", str(left_as_it_is)) == 0
    with (left_as_it_is / "predictions.csv").open(newline="") as file:
        said = [(row["label"], row["prediction"]) for row in csv.DictReader(file)]
    labels, predicted = zip(*said, strict=True)
    for name, options in (("f1_macro", "macro"), ("f1_weighted", "weighted")):
        expected = metrics.f1_score(labels, predicted, average=options)
        assert record["results"][f"test/{name}"] == pytest.approx(expected, abs=1e-6)
    with (left_as_it_is / "test-confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["label", "common", "rare"]
    matrix = [[int(count) for count in row[1:]] for row in rows]
    assert matrix == metrics.confusion_matrix(labels, predicted).tolist()
    assert (left_as_it_is / "test-confusion.png").read_bytes().startswith(b"\x89PNG")
    assert call("test", "--run", str(left_as_it_is)) == 0
    assert "  test-confusion.png " in capsys.readouterr().out


def test_a_run_out_of_patience_ends_also_if_it_was_killed_as_it_ended(call, monkeypatch, tmp_path):
    flags = ("--best=val/f1_macro", "--patience=1", "--trainer.max_epochs=99")
    flags = ("fit", *DIGITS, *flags, "--checkpoints.seconds=0", "--data.batch_size=256")
    assert call(*flags, folder=tmp_path / "whole") == 0
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["best"] == {"metric": "val/f1_macro", "mode": "max", "format": ".4f"}
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    scores = [row["val/f1_macro"] for row in rows if "val/f1_macro" in row]
    assert scores[-1] <= scores[-2] == max(scores) == record["results"]["best val/f1_macro"]
    best = f"no better val/f1_macro since epoch {len(scores) - 1} ({scores[-2]:.6g})"
    assert (record["state"], record["reason"]) == ("finished", f"--patience 1: {best}")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_train_end", die)
        assert call(*flags, folder=tmp_path / "cut") != 0
    assert call("fit", "--run", str(tmp_path / "cut")) == 0
    for file in ("digests.json", "metrics.csv"):
        assert (tmp_path / "cut" / file).read_text() == (tmp_path / "whole" / file).read_text()
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["reason"] == record["reason"]
    assert call("fit", "--run", str(tmp_path / "cut")) == 2  # it has finished
    assert call("fit", "--run", str(tmp_path / "cut"), "--patience=2") == 0
    assert len(read_metrics(tmp_path / "cut" / "metrics.csv")) > len(rows)
