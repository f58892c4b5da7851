"""The rows that were read from files, and what is wrong with those that can't be used."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from .names import MAX_LISTED

ADVICE = "Fix or remove such rows, or leave them out with --data.options.skip_bad true."


@dataclass
class Entries:
    """Texts with their labels as words, in the order in which they were read.

    `splits` are train, val or test; "" for rows that have none. `second` is empty if rows are
    single texts. A label is "" if there is none. `columns` are the names of the columns with the
    training texts.
    """

    first: list[str] = field(default_factory=list)
    second: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.first)

    def add(self, texts: Sequence[str], label: str, split: str, place: str) -> None:
        """Add a row with one text, or two."""
        self.first.append(texts[0])
        self.second += texts[1:]
        self.labels.append(label)
        self.splits.append(split)
        self.places.append(place)

    def of(self, split: str) -> list[int]:
        """Return the indices of a split's rows."""
        return [i for i, name in enumerate(self.splits) if name == split]


@dataclass
class Problems:
    """What is wrong with rows; only the first are kept, to be shown."""

    count: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, place: str, what: str) -> None:
        self.count += 1
        if len(self.lines) < MAX_LISTED:
            self.lines.append(f"{place} {what}")

    def settle(
        self, n: int, place: Path, skip_bad: bool, remarks: list[str], advice: str = ADVICE
    ) -> None:
        """Raise UserError with `advice` if there are any, unless `skip_bad`: then a remark says so.

        `n` is the number of rows that can be used.
        """
        if not self.count:
            return
        of = f"{self.count:,} of {n + self.count:,} rows"
        if self.count == 1 and not skip_bad:
            raise UserError(f"{self.lines[0]}. {advice}")
        text = "\n".join(f"  {line}" for line in self.lines)
        text += "\n  …" if self.count > len(self.lines) else ""
        if not skip_bad:
            raise UserError(f"{place}: {of} can't be used:\n{text}\n{advice}")
        if not n:
            raise UserError(f"{place}: none of the {self.count:,} rows can be used:\n{text}")
        remarks.append(f"{of} left out:\n{text}")
