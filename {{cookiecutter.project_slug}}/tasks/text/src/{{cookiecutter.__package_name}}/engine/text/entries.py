"""The rows that were read from files, and what is wrong with those that can't be used."""

from collections.abc import Collection, Sequence
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

    def remove(self, rows: Collection[int]) -> None:
        """Remove the rows with these indices."""
        removed = set(rows)
        for column in (self.first, self.second, self.labels, self.splits, self.places):
            column[:] = [value for i, value in enumerate(column) if i not in removed]


@dataclass
class Problems:
    """What is wrong with rows; only the first are kept, to be shown. `hints` add to the advice."""

    count: int = 0
    lines: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def add(self, place: str, what: str) -> None:
        self.count += 1
        if len(self.lines) < MAX_LISTED:
            self.lines.append(f"{place} {what}")

    def settle(
        self, n: int, place: Path, skip_bad: bool, remarks: list[str], advice: str | None = None
    ) -> None:
        """Raise UserError if there are any, unless `skip_bad`: then a remark says so.

        `n` is the number of rows that can be used. `advice` replaces the usual one and the hints.
        """
        if not self.count:
            return
        advice = advice or " ".join([ADVICE, *self.hints])
        of = f"{self.count:,} of {n + self.count:,} rows"
        if self.count == 1 and not skip_bad:
            raise UserError(f"{self.lines[0]}. {advice}")
        text = "\n".join(f"  {line}" for line in self.lines)
        text += "\n  …" if self.count > len(self.lines) else ""
        if not skip_bad:
            raise UserError(f"{place}: {of} can't be used:\n{text}\n{advice}")
        if not n:
            raise UserError(
                f"{place}: no row can be used:\n{text}\n{' '.join(self.hints)}".rstrip()
            )
        remarks.append(f"{of} left out:\n{text}")
