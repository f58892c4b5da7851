"""Labels: words that are classes, or numbers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..plurals import plural
from .entries import Entries, Problems
from .names import join_names, shown

UNLABELLED = "-1"  # what Parquet files of unlabelled test splits have instead of a label
MOST_CLASSES = 0.5  # per training row: with more, the labels are hardly classes
FEW_NUMBERS = 5  # so many different numbers may well be classes, such as stars


def as_word(cell: Any) -> str:
    """Return a cell of a label as a word; "" if it is empty. A 1.0 is the class 1."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return cell.strip() if isinstance(cell, str) else json.dumps(cell, default=str)


def problem_of_label(cell: Any) -> str | None:
    """Return what is wrong with a cell that holds several labels, or None."""
    if not isinstance(cell, list | dict):
        return None
    found = json.dumps(cell, default=str, ensure_ascii=False)
    return f"has the label {shown(found)}; expected one word or number, as a text has one label"


def as_number(word: str) -> float | None:
    """Return a label as a number, or None if it is none."""
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def meant_as_numbers(words: Sequence[str]) -> list[float]:
    """Return the numbers among labels, also those with a decimal comma, to be reported."""
    numbers = (as_number(word.replace(",", ".")) for word in words)
    return [number for number in numbers if number is not None]


def are_numbers(
    entries: Entries, problems: Problems, remarks: list[str], asked: bool | None
) -> bool:
    """Return whether labels are numbers to predict, as `asked` or, if it is None, as they look.

    They are if more than half are numbers, and some of these have a fraction. Then rows with
    another label are removed, and added to `problems`. If many whole numbers are taken for classes,
    `remarks` say so.
    """
    if asked is False:
        return False
    meant, n = meant_as_numbers(entries.labels), entries.n
    numbers = bool(asked) or (2 * len(meant) > n and any(number % 1 for number in meant))
    if not numbers:
        different = len(set(meant))
        if 2 * len(meant) > n and different > FEW_NUMBERS:
            remarks.append(
                f"the labels are taken for classes, {different:,} of which are whole numbers, such"
                f" as {meant[0]:g}. To learn numbers instead, set --data.options.numbers true"
            )
        return False
    wrong = [i for i, word in enumerate(entries.labels) if as_number(word) is None]
    for i in wrong:
        word = entries.labels[i]
        point = " with a decimal point" if meant_as_numbers([word]) else ""
        problems.add(entries.places[i], f"has the label {shown(word)}; expected a number{point}")
    if wrong:
        many = f"{len(meant):,} of {n:,} labels are numbers"
        why = "data.options.numbers is true" if asked else many
        problems.hints.append(f"{why}. If they are classes, set --data.options.numbers false.")
    entries.remove(wrong)
    return True


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
        n = len(missing)
        remarks.append(
            f"the {plural(n, 'class', 'classes')} {join_names(_sorted(missing))}"
            f" {plural(n, 'has', 'have')} no validation texts, so validation does not measure"
            f" {plural(n, 'it', 'them')}"
        )
    return tuple(_sorted(names["train"]))


def _sorted(names: set[str]) -> list[str]:
    """Return names in order; whole numbers by their value."""
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)
