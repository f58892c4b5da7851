"""Labels: words that are classes, or numbers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .entries import Entries
from .names import join_names, shown
from .splits import Label

UNLABELLED = "-1"  # what Parquet files of unlabelled test splits have instead of a label
MOST_CLASSES = 0.5  # per training row: with more, the labels are hardly classes


def as_word(cell: Any) -> str:
    """Return a cell of a label as a word; "" if it is empty. A 1.0 is the class 1."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return cell.strip() if isinstance(cell, str) else json.dumps(cell, default=str)


def as_number(word: str) -> float | None:
    """Return a label as a number, or None if it is none."""
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def are_numbers(words: Sequence[str]) -> bool:
    """Return whether labels are numbers to predict: all are numbers, some with a fraction."""
    numbers = [as_number(word) for word in words]
    return None not in numbers and any(number % 1 for number in numbers if number is not None)


def numbers_of(entries: Entries) -> list[Label]:
    """Return the labels as numbers. Raises UserError if one is none."""
    found: list[Label] = []
    for word, place in zip(entries.labels, entries.places, strict=True):
        number = as_number(word)
        if number is None:
            raise UserError(
                f"{place} has the label {shown(word)}; expected a number, as"
                " data.options.numbers is true."
            )
        found.append(number)
    return found


def classes_of(entries: Entries, place: Path, remarks: list[str]) -> tuple[str, ...]:
    """Return the classes, sorted; a class without validation rows is added to `remarks`.

    Raises UserError if there is only one, if a label is in no training row, or if the labels are
    hardly classes.
    """
    rows = {split: entries.of(split) for split in ("train", "val", "test")}
    names = {split: {entries.labels[i] for i in some} for split, some in rows.items()}
    if len(names["train"]) < 2:
        raise UserError(
            f"{place} has only the label {join_names(names['train'])} to train on: at least two"
            " classes are needed."
        )
    if len(rows["train"]) >= 20 and len(names["train"]) > MOST_CLASSES * len(rows["train"]):
        raise UserError(
            f"{place} has {len(names['train']):,} different labels in {len(rows['train']):,}"
            f" training rows, such as {join_names(sorted(names['train'])[:3])}: expected classes."
            " Name the right column with --data.options.label, or set --data.options.numbers true."
        )
    for split in ("val", "test"):
        for i in rows[split]:
            if entries.labels[i] not in names["train"]:
                raise UserError(
                    f"{entries.places[i]} has the label {shown(entries.labels[i])}, which no"
                    f" training row has. The classes are {join_names(_sorted(names['train']))}:"
                    " correct the label, add training rows, or remove the row."
                )
    if missing := names["train"] - names["val"]:
        remarks.append(
            f"no validation texts of {join_names(_sorted(missing))}: validation leaves them out"
        )
    return tuple(_sorted(names["train"]))


def _sorted(names: set[str]) -> list[str]:
    """Return names in order; whole numbers by their value."""
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)
