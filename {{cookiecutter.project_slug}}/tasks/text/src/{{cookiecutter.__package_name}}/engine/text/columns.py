"""Which columns of a table are the texts, the labels and the split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .names import find, join_names

FIRST = ("text", "sentence", "text1", "sentence1", "first", "premise", "question1", "question")
SECOND = ("text2", "sentence2", "second", "hypothesis", "question2")
LABEL = ("label", "labels", "class", "category", "target", "score", "gold_label")
SPLIT = ("split", "partition")


@dataclass(frozen=True)
class Wanted:
    """The names of columns as the settings give them; None for the usual names.

    `trained` are the columns of texts that a run was trained on; a table may have the usual ones
    instead.
    """

    text: str | None = None
    second: str | None = None
    label: str | None = None
    split: str | None = None
    trained: tuple[str, ...] = ()

    @property
    def usual(self) -> dict[str, tuple[str, ...]]:
        """The names that each column may have if the settings give none."""
        first, second = (*self.trained[:1], *FIRST), (*self.trained[1:], *SECOND)
        usual = {"text": first, "second": second, "label": LABEL, "split": SPLIT}
        return {option: tuple(dict.fromkeys(names)) for option, names in usual.items()}

    def fits(self, columns: Sequence[str]) -> bool:
        """Return whether a table with these columns has a text."""
        return _index(self.text, self.usual["text"], columns) is not None


@dataclass(frozen=True)
class Columns:
    """The indices of the columns; None if the table has none."""

    text: int
    second: int | None
    label: int | None
    split: int | None

    def of_texts(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns with the texts, one or two."""
        return tuple(columns[i] for i in (self.text, self.second) if i is not None)


def choose(wanted: Wanted, columns: Sequence[str], path: Path, remarks: list[str]) -> Columns:
    """Return where the columns are; those not used are added to `remarks`.

    Raises UserError if there is no text, or no column with a name that the settings give.
    """
    usual = wanted.usual
    found = {each: _index(getattr(wanted, each), usual[each], columns) for each in usual}
    for option in ("text", "second", "split"):
        name = getattr(wanted, option)
        if found[option] is None and (name is not None or option == "text"):
            expected = f"{name!r}" if name is not None else f"one of {', '.join(usual[option])}"
            raise missing_column(option, expected, columns, path)
    options = dict[int, str]()
    for option, place in found.items():
        if place is not None and options.setdefault(place, option) != option:
            raise UserError(
                f"{path}: the column {columns[place]!r} would be both {options[place]} and"
                f" {option}. Name another with --data.options.{options[place]} or {option}."
            )
    unused = [name for i, name in enumerate(columns) if i not in found.values()]
    text = found.pop("text")
    assert text is not None
    chosen = Columns(text, **found)
    if unused:
        named = " and ".join(map(repr, chosen.of_texts(columns)))
        remarks.append(
            f"{path.name}: texts are read from {named}; columns not used: {join_names(unused)}"
        )
    return chosen


def missing_column(option: str, expected: str, columns: Sequence[str], path: Path) -> UserError:
    """Return the error for a table that lacks the column of an option."""
    return UserError(
        f"{path} has the columns {join_names(columns)}; expected {expected}. Name the column with"
        f" --data.options.{option}."
    )


def _index(name: str | None, usual: Sequence[str], columns: Sequence[str]) -> int | None:
    """Return the index of the column with a name or, if it is None, with the first usual one."""
    places = (find(each, columns) for each in ([name] if name is not None else usual))
    return next((place for place in places if place is not None), None)
