"""Tables of predictions: of new files, and those that an evaluation wrote."""

import csv
from collections.abc import Callable
from pathlib import Path


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predict_as_in_the_evaluation(call: Callable[..., int], run: Path, place: Path) -> None:
    """Predict the test rows as a new input: the answers agree to the last digit.

    These are classes and probabilities, or labels and those of each, or numbers.
    """
    out = run / "new.csv"
    assert call("predict", "--run", str(run), "--input", str(place), "--out", str(out)) == 0
    new, expected = rows_of(out), rows_of(run / "predictions.csv")
    assert len(expected) > 1 and not any(row["error"] for row in new)
    answer = next(name for name in ("class", "labels", "prediction") if name in new[0])
    shares = [name for name in expected[0] if name == "probability" or name.startswith("p_")]
    found = [[row[name] for name in (answer, *shares)] for row in new]
    known = [[row[name] for name in ("prediction", *shares)] for row in expected]
    assert found == known
