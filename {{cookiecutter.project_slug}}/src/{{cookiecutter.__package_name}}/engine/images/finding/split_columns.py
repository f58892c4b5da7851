"""Which column of a table gives the split: found while the table is read, once."""

from array import array
from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError
from .listing import NO_SPLIT, split_index
from .names import SPLITS, as_text, join_names, split_of

USUAL_NAMES = ("split", "splits", "partition", "phase", "fold", "set", "subset", "usage")
MAX_VALUES = 12  # distinct values by which a column is judged


class _Column:
    """One column as splits, as long as it may be the one that gives them."""

    def __init__(self, name: str, place: int) -> None:
        self.name, self.place = name, place
        self.splits = array("b")
        self.values: dict[str, int] = {"": NO_SPLIT}  # as written, with the index of the split
        self.wrong: tuple[int, str] | None = None  # the first line with another value

    def add(self, line: int, cell: str) -> bool:
        """Add the cell of a row; return whether the column may still give the split."""
        number = self.values.get(cell)
        if number is None:
            number = self._number(line, cell)
        self.splits.append(number)
        return self.wrong is None or self.name in USUAL_NAMES

    def _number(self, line: int, cell: str) -> int:
        value = cell.strip()
        split = split_of(value)
        if value and split is None and self.wrong is None:
            self.wrong = line, value
        number = split_index(split)
        if len(self.values) <= 2 * MAX_VALUES:  # a column of numbers would fill the memory
            self.values[cell] = number
        return number

    def gives_split(self) -> bool:
        """Return whether the column gives the split.

        A column called split does. One with another usual name does if a value is a split, so that
        a wrong value is reported. Any other does if all of its values are splits, and one is train.
        """
        found = {number for number in self.values.values() if number != NO_SPLIT}
        if self.name in USUAL_NAMES:
            return bool(found) or (self.name == "split" and bool(self.wrong))
        return SPLITS.index("train") in found and len(found) > 1


class SplitColumns:
    """The columns of a table beside path and label. `places` are their indices by name."""

    def __init__(self, path: Path, places: Mapping[str, int]) -> None:
        self.path = path
        self.names = [name for name in places if name not in ("path", "label", "")]
        self.columns = [_Column(name, places[name]) for name in self.names]

    def add(self, line: int, cells: list[str]) -> None:
        """Add a row. A column with too many values to give the split is looked at no longer."""
        for column in self.columns:
            if not column.add(line, cells[column.place]):
                self.columns = [other for other in self.columns if other is not column]

    def splits(self, n: int, remarks: list[str]) -> array:
        """Return the splits of the n rows, indices in SPLITS or -1; name columns not used.

        Raises UserError if two columns give one, or a value is none.
        """
        found = [column for column in self.columns if column.gives_split()]
        if len(found) > 1:
            names = join_names(column.name for column in found)
            raise UserError(f"{self.path}: the columns {names} all give a split. Keep one.")
        if found and found[0].wrong:
            line, value = found[0].wrong
            raise UserError(
                f"{self.path}, line {line}: the {found[0].name} is '{as_text(value)}'; expected"
                f" {', '.join(SPLITS)}."
            )
        used = [column.name for column in found] or ["split"]
        if unused := [name for name in self.names if name not in used]:
            divided = "" if found else "; the table gives no split"
            remarks.append(f"{self.path}: columns not used: {join_names(unused)}{divided}")
        return found[0].splits if found else array("b", bytes([255])) * n
