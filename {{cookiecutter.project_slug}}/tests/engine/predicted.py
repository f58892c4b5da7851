"""Tables of predictions: of new files, and those that an evaluation wrote."""

import csv
from collections.abc import Callable
from pathlib import Path


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predict_as_in_the_evaluation(call: Callable[..., int], run: Path, place: Path) -> None:
    """Predict the test rows as a new input: classes and probabilities agree to the last digit."""
    out = run / "new.csv"
    assert call("predict", "--run", str(run), "--input", str(place), "--out", str(out)) == 0
    new, expected = rows_of(out), rows_of(run / "predictions.csv")
    assert len(expected) > 1 and not any(row["error"] for row in new)
    assert [(row["class"], row["probability"]) for row in new] == [
        (row["prediction"], row["probability"]) for row in expected
    ]
