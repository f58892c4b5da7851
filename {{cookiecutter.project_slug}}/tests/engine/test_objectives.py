"""Images with several labels, or with a number: read, learned, measured, predicted and served."""

import json
from pathlib import Path
from types import SimpleNamespace

import by_scikit_learn
import numpy as np
import pytest
import torch
from digit_files import MARKS, ROWS, split_of, write_digits
from predicted import rows_of
from sklearn import metrics
from sklearn.datasets import load_digits

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import Project
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.finding.targets import (
    doubts_of_classes,
)
from {{ cookiecutter.__package_name }}.engine.images.folder import folder
from {{ cookiecutter.__package_name }}.engine.images.read import read
from {{ cookiecutter.__package_name }}.engine.model.means import RunningTotals
from {{ cookiecutter.__package_name }}.engine.model.objectives import (
    Labels,
    Numbers,
)
from {{ cookiecutter.__package_name }}.engine.monitor.class_report import (
    measure_labels,
)
from {{ cookiecutter.__package_name }}.engine.tools.serve import ServedRun

PROJECT = Project(package.__name__, ImageClassifier, ImageData, read)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as files, and a table of them for each objective."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(root)
    return root


@pytest.fixture(scope="module", params=["labels", "numbers"])
def run(request, digits, call, tmp_path_factory) -> tuple[str, Path]:
    """An objective and its tested run."""
    place, objective = tmp_path_factory.mktemp("run"), request.param
    source = ["--data.source=folder", f"--data.options.path={digits}/{objective}.csv"]
    source += [f"--data.options.objective={objective}", "--data.loader=resident"]
    sizes = ["--data.image_size=8", "--data.batch_size=30", "--data.eval_batch_size=50"]
    sizes += ["--data.mixup=0.1", "--model.small_images=true", "--trainer.max_epochs=12"]
    assert call("fit", *source, *sizes, "--model.learning_rate=0.005", folder=place) == 0
    assert (place / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert call("test", "--run", str(place)) == 0
    return objective, place


def test_labels_that_are_taken_for_classes_are_noted(digits):
    (note,) = [line for line in folder(f"{digits}/labels.csv").remarks if "separates" in line]
    assert "classes have a ; in their name, such as 'even;" in note
    assert "--data.options.objective labels" in note
    assert not any("separates" in line for line in folder(f"{digits}/classes.csv").remarks)
    (note,) = doubts_of_classes(["0", "0.5"])
    assert note.startswith("the 2 classes are numbers, such as 0. To learn numbers")
    (note,) = doubts_of_classes(["NA", "0.5", "1.5"])
    assert note.startswith("2 of 3 classes are numbers, such as 0.5. To learn numbers")
    assert len(doubts_of_classes([str(i) for i in range(20)])) == 1
    assert doubts_of_classes(["3", "10", "0"]) == doubts_of_classes(["0.5", "cat"]) == []


def test_the_run_learns_and_its_table_has_its_scores(run):
    objective, place = run
    record, rows = json.loads((place / "run.json").read_text()), rows_of(place / "predictions.csv")
    results, loaded = record["results"], load_digits().target[:ROWS]
    of_test = [digit for i, digit in enumerate(loaded) if split_of(i) == "test"]
    assert len(rows) == len(of_test) == 60
    if objective == "numbers":
        assert record["best"]["metric"] == "val/loss"
        trained = [round(d / 9, 3) for i, d in enumerate(loaded) if split_of(i) == "train"]
        scale = f"mean {np.mean(trained):.6g}, deviation {np.std(trained):.6g}"
        assert scale in record["initialized"]
        known, said = ([float(row[key]) for row in rows] for key in ("target", "prediction"))
        assert known == pytest.approx([digit / 9 for digit in of_test], abs=1e-3)
        error = metrics.mean_absolute_error(known, said)
        assert results["test/mae"] == pytest.approx(error, abs=1e-6)
        squared = metrics.mean_squared_error(known, said) / np.var(trained)
        assert results["test/loss"] == pytest.approx(squared, abs=1e-5)
        assert results["test/r2"] == pytest.approx(metrics.r2_score(known, said), abs=1e-6)
        assert results["test/r2"] > 0.4
        return
    assert record["best"]["metric"] == "val/map"
    known = np.array([[digit in digits for digits in MARKS.values()] for digit in of_test])
    said = np.array([[float(row[f"p_{name}"]) for name in MARKS] for row in rows])
    expected = metrics.average_precision_score(known, said, average="macro")
    assert results["test/map"] == pytest.approx(expected, abs=1e-4)  # of 6 digits
    assert results["test/map"] > 0.8
    macro = metrics.f1_score(known, said > 0.5, average="macro")
    assert results["test/f1_macro"] == pytest.approx(macro, abs=1e-6)
    table = rows_of(place / "test-classes.csv")
    assert [row["class"] for row in table] == list(MARKS)
    assert [int(row["rows"]) for row in table] == known.sum(0).tolist()
    for row, true in zip(rows, known, strict=True):
        assert row["labels"] == ";".join(np.array(list(MARKS))[true])


def test_predict_and_the_service_give_what_the_evaluation_gives(run, digits, call):
    objective, place = run
    expected, out = rows_of(place / "predictions.csv"), place / "new.csv"
    tested = [i for i in range(ROWS) if split_of(i) == "test"]
    (digits / "list.txt").write_text("\n".join(f"{i}.png" for i in tested))
    named = ("--run", str(place), "--input", str(digits / "list.txt"), "--out", str(out))
    assert call("predict", *named, "--data.eval_batch_size", "50") == 0
    served, file = ServedRun(PROJECT, place), (digits / f"{tested[0]}.png").read_bytes()
    answer, found = served.answer(file), rows_of(out)
    if objective == "numbers":
        numbers = [float(row["prediction"]) for row in expected]
        assert [float(row["prediction"]) for row in found] == pytest.approx(numbers, abs=1e-6)
        assert answer["prediction"] == pytest.approx(numbers[0], abs=1e-5)
        return
    keys = [f"p_{name}" for name in MARKS]
    assert [[row[key] for key in keys] for row in found] == [
        [row[key] for key in keys] for row in expected
    ]
    assert [row["labels"] for row in found] == [row["prediction"] for row in expected]
    assert ";".join(answer["labels"]) == found[0]["labels"]
    assert list(answer["probabilities"]) == list(MARKS)


def test_metrics_of_labels_equal_those_of_scikit_learn():
    logits, targets = torch.randn(200, 6).round(decimals=1), (torch.rand(200, 6) < 0.3).float()
    targets[:, 4], logits[:, 5] = 0, -9  # a label that no row has; one that is never predicted
    shares = logits.sigmoid()
    report = measure_labels(shares, targets)
    scores, each = by_scikit_learn.of_labels(shares.numpy(), targets.numpy())
    assert report.scores == pytest.approx({name: scores[name] for name in report.scores}, abs=1e-6)
    for name, values in report.of_classes.items():
        np.testing.assert_allclose(values, each[name], atol=1e-6)
    assert report.of_classes["average_precision"].isnan().tolist() == [False] * 4 + [True, False]
    assert Labels().scores(shares, targets) == {"map": pytest.approx(scores["map"], abs=1e-6)}
    running = RunningTotals()
    for some, more in ((slice(0, 150), 0), (slice(150, 200), 0), (slice(0, 30), 30)):
        rows = logits[some], targets[some]
        real = torch.arange(len(rows[0])) < len(rows[0]) - more
        running.add(Labels().totals(*rows, real))
        running.add(Labels().eval_totals(*rows, real))
    means = {name: float(mean) for name, mean in running.means().items()}
    assert {"loss", "f1_macro"} <= means.keys()
    assert means == pytest.approx({name: scores[name] for name in means}, abs=1e-6)


def test_metrics_of_numbers_equal_those_of_scikit_learn():
    outputs, targets = torch.randn(50, 1), torch.randn(50)
    found = Numbers().scores(outputs[:, 0], targets)
    assert found["r2"] == pytest.approx(metrics.r2_score(targets, outputs[:, 0]), abs=1e-6)
    padded, more = torch.cat([outputs, outputs[:9]]), torch.cat([targets, targets[:9]])
    running = RunningTotals()
    running.add(Numbers().totals(padded, more, torch.arange(59) < 50))
    mean = metrics.mean_squared_error(targets, outputs[:, 0])
    assert float(running.means()["loss"]) == pytest.approx(mean, abs=1e-6)
    assert float(Numbers()(outputs, targets)) == pytest.approx(mean, abs=1e-6)
    one = Numbers().scores(outputs[:1, 0], targets[:1])
    assert np.isnan(one["r2"])


def test_the_scale_of_numbers_is_that_of_the_training_targets_and_saved():
    targets = torch.tensor([1900.0, 1950.0, 2000.0, 2030.0])
    trainer = SimpleNamespace(datamodule=SimpleNamespace(train_numbers=targets))
    task, other = (ImageClassifier(num_classes=1, objective="numbers") for _ in range(2))
    assert "mean 1970, deviation 49.4975" in task.label_loss.scale.measure(trainer)
    other.load_state_dict(task.state_dict())
    outputs = torch.tensor([[0.0], [1.0]])
    expected = [1970, 1970 + float(targets.std(correction=0))]
    assert other.predict(outputs).tolist() == pytest.approx(expected)
    assert task.label_loss.scale(targets).mean() == pytest.approx(0, abs=1e-6)
    trainer.datamodule.train_numbers = torch.full((7,), 0.1)
    task.label_loss.scale.measure(trainer)
    assert task.label_loss.scale.deviation == 1 and task.predict(outputs)[0] == torch.tensor(0.1)
    assert task.label_loss.scale.measure(SimpleNamespace(datamodule=None)) == ""


@pytest.mark.parametrize(
    ("objective", "label", "message"),
    [
        ("labels", "", r"table.csv, line 3: expected a path and a label \(; for no label\)"),
        ("numbers", "", r"table.csv, line 3: expected a path and a label\."),
        ("numbers", "big", r"1.png has the label 'big'; expected a number"),
        ("numbers", "nan", r"1.png has the label 'nan'; expected a number"),
        ("tags", "x", "data.options.objective is tags; expected one of 'classes', 'labels'"),
    ],
)
def test_a_label_that_is_none_is_named(objective, label, message, digits):
    (digits / "table.csv").write_text(f"path,label\n0.png,1\n1.png,{label}\n2.png,2\n")
    with pytest.raises(UserError, match=message):
        folder(str(digits / "table.csv"), objective=objective)


def test_labels_are_the_same_in_any_order_and_an_image_may_have_none(digits):
    lines = ["path,label,split", "0.png,b; a,train", "1.png,;,train", "2.png,a;b;a,val"]
    (digits / "table.csv").write_text("\n".join([*lines, "0.png,a;b,train"]))
    splits = folder(str(digits / "table.csv"), objective="labels")
    assert splits.classes == ("a", "b") and splits.objective == "labels"
    assert splits.train.labels.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert splits.val.labels.tolist() == [[1, 1]]


def test_what_only_classes_have_is_refused(digits):
    with pytest.raises(UserError, match=r"model\.focal_gamma is 2\.0, but the data have labels"):
        ImageClassifier(num_classes=3, objective="labels", focal_gamma=2.0)
    with pytest.raises(UserError, match=r"model\.test_flip is True, but the data have numbers"):
        ImageClassifier(num_classes=1, objective="numbers", test_flip=True)
    options = {"path": str(digits / "numbers.csv"), "objective": "numbers"}
    with pytest.raises(UserError, match=r"data\.sampler is balanced, which needs .* numbers"):
        ImageData("folder", options, image_size=8, sampler="balanced")
