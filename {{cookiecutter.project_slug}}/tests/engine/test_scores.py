"""All scores are scikit-learn's: on one process and on two, with a last batch that is padded."""

import json
from pathlib import Path

import by_scikit_learn
import numpy as np
import pytest
import torch
from digit_files import write_digits
from killed import Job, log_of, start, wait

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    Project,
    data_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics
from {{ cookiecutter.__package_name }}.engine.tools.trained import load_trained

PROJECT = Project(package.__name__, ImageClassifier, ImageData)
OF_EPOCHS = {
    "classes": {"loss", "accuracy", "top5", "precision_macro", "recall_macro", "f1_macro"},
    "labels": {"loss", "map", "precision_macro", "recall_macro", "f1_macro"},
    "numbers": {"loss", "mae", "r2"},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as files, and a table of them for each objective."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(root)
    return root


def expected(objective: str, run: Path, data: ImageData, split: str) -> tuple[dict, dict]:
    """Return scikit-learn's scores of a run's predictions for a split, and those of each class.

    The batches are those of the run: with others, probabilities would differ in their last bits.
    """
    task, batches = load_trained(PROJECT, run).task.eval(), getattr(data, f"{split}_dataloader")()
    with torch.inference_mode():
        found = torch.cat([task.predict(task(batch))[batch.row >= 0] for batch in batches])
    targets = torch.cat([batch.labels[batch.row >= 0] for batch in batches])
    of = getattr(by_scikit_learn, f"of_{objective}")
    scale = () if data.train_numbers is None else (data.train_numbers.double().numpy(),)
    return of(found.double().numpy(), targets.double().numpy(), *scale)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("objective", OF_EPOCHS)
def test_scores_of_validation_and_test_are_those_of_scikit_learn(
    objective, processes, digits, tmp_path
):
    """A few steps, after which some classes are never predicted; of another, there is no row."""
    options = {"path": str(digits / f"{objective}.csv"), "objective": objective}
    settings = {"source": "folder", "image_size": 8, "loader": "resident"}
    data = data_with_flags(ImageData)(options=options, eval_batch_size=25, **settings)
    flags = [f"--data.{name}={value}" for name, value in settings.items()]
    flags += [f"--data.options.{name}={value}" for name, value in options.items()]
    flags += ["--data.batch_size=30", "--model.small_images=true", "--model.learning_rate=0.01"]
    flags += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4"]
    assert all(rows % (25 * processes) for rows in (data.splits.val.n, data.splits.test.n))
    run = tmp_path / "run"
    run.mkdir()
    test = ["test", "--run", str(run)]  # on one device
    for arguments, count in ((["fit", *flags], processes), (test, 1)):
        flags = [f"--trainer.devices={count}", "--data.eval_batch_size=25"]
        job = Job([*arguments, *flags, "--trainer.accelerator=cpu"], run, count)
        assert wait(start(job)) == 0, log_of(run)

    scores, _ = expected(objective, run, data, "val")
    (row,) = [row for row in read_metrics(run / "metrics.csv") if "val/loss" in row]
    found = {name[4:]: value for name, value in row.items() if name.startswith("val/")}
    assert found.keys() == OF_EPOCHS[objective]
    assert found == pytest.approx({name: scores[name] for name in found}, abs=1e-6)

    scores, each = expected(objective, run, data, "test")
    results = json.loads((run / "run.json").read_text())["results"]
    found = {name[5:]: value for name, value in results.items() if name.startswith("test/")}
    assert found == pytest.approx(scores, abs=1e-6)
    if objective == "classes":
        assert np.isnan(each["precision"]).any() and np.isnan(each["recall"]).any()
