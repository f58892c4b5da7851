"""What a service answers, beside what an evaluation saw."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from {{ cookiecutter.__package_name }}.engine.images.read import read
from {{ cookiecutter.__package_name }}.engine.tools.serve import ServedRun

CLOSE = 0.02 if torch.cuda.is_available() else 1e-5


def check_answers(served: ServedRun, data: Any, predictions: Path) -> int:
    """Compare pixels, classes and probabilities of each test image; return how many there are."""
    (batch,) = data.test_dataloader()
    rows = list(csv.DictReader(predictions.open()))
    for row, seen in zip(rows, batch.images, strict=False):
        file = data.splits.test.files[int(row["index"])].read_bytes()
        shown, problems = read([file], served.facts)
        assert not problems and torch.equal(shown.images[0], seen)
        said = served.answer(file)
        assert said["class"] == row["prediction"]
        assert said["probability"] == pytest.approx(float(row["probability"]), abs=CLOSE)
    return len(rows)


def list_of_test_files(data: Any, file: Path) -> Path:
    """Write the paths of the test images into a file, in their order."""
    files = data.splits.test.files
    file.write_text("".join(f"{files[i]}\n" for i in range(files.n)))
    return file
