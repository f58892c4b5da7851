"""Reading a table of images: a CSV file with the columns path, label and, optionally, a split.

Spreadsheets write such files in several encodings, with other separators, and people name the
column of the split in many ways. What is read is never guessed without a remark.
"""

import csv
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...model.objectives import SEPARATOR, ObjectiveName
from ...plurals import counted
from .file_paths import Paths
from .listing import Listing, Stats, arrays, status_of
from .names import FilesOnDisk, as_text, join_names
from .split_columns import SplitColumns

SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
SEPARATORS = ",;\t|"
SHOWN = 100  # characters of a first line that an error shows

# Byte order marks; UTF-32's begins with UTF-16's.
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@dataclass(frozen=True)
class _Table:
    """A table's file, and how to read it. `first` is the number of lines before the columns."""

    path: Path
    encoding: str
    separator: str
    columns: tuple[str, ...]
    first: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of each row's last line, and a cell for each column. Raises UserError.

        Empty rows are left out.
        """
        width = len(self.columns)
        with _open(self.path, self.encoding) as file:
            for _ in range(self.first):
                next(file)
            rows = csv.reader(file, delimiter=self.separator)
            next(rows)
            try:
                for cells in rows:
                    if len(cells) > width and any(cells[width:]):
                        raise UserError(
                            f"{self.path}, line {rows.line_num + self.first}:"
                            f" {counted(len(cells), 'cell')}; expected {width}. Put quotes"
                            f" around a cell that contains {self.separator!r}."
                        )
                    if len(cells) < width:
                        cells += [""] * (width - len(cells))
                    if any(cells):
                        yield rows.line_num + self.first, cells
            except csv.Error as error:
                raise UserError(
                    f"{self.path}, line {rows.line_num + self.first}: {error}. Expected cells"
                    f" separated by {self.separator!r}."
                ) from None
            except UnicodeError as error:
                raise UserError(
                    f"{self.path} can't be read as {self.encoding}: {error}. Save it as UTF-8."
                ) from None


class _Labels:
    """The labels of a table, numbered; `strange` are those that are not UTF-8."""

    def __init__(self) -> None:
        self.names, self.strange = dict[str, int](), list[str]()
        self.numbers: dict[str, int] = {}  # of the labels as they are written

    def number(self, written: str) -> int:
        """Return the number of a label; -1 if it is empty."""
        if (known := self.numbers.get(written)) is not None:
            return known
        label, number = as_text(written.strip()), -1
        if label:
            number = self.names.setdefault(label, len(self.names))
            if not _is_unicode(written):
                self.strange.append(label)
        self.numbers[written] = number
        return number


def from_table(path: Path, remarks: list[str], objective: ObjectiveName = "classes") -> Listing:
    """Return the images of a table; what its reader should know is added to `remarks`.

    Raises UserError if the file or a row is not as expected.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is neither a folder nor a .csv file with path,label[,split].")
    table = _described(path, {"path", "label"}, "expected path,label[,split]")
    disk, labels, stats = FilesOnDisk(path.parent), _Labels(), Stats()
    places = {name: place for place, name in enumerate(table.columns)}
    in_path, in_label = places["path"], places["label"]
    columns = SplitColumns(path, places)
    text, numbers, folder = bytearray(), array("i"), os.open(path.parent, os.O_RDONLY)
    try:
        for line, cells in table.rows():
            cell, label = cells[in_path].strip(), labels.number(cells[in_label])
            if not cell or label < 0 or "\0" in cell:
                none = f" ({SEPARATOR} for no label)" if objective == "labels" else ""
                raise UserError(f"{path}, line {line}: expected a path and a label{none}.")
            if not cell.isascii() or "\\" in cell:
                cell = os.fspath(disk.find(cell))
            text += os.fsencode(cell) + b"\0"
            stats.add(status_of(cell, folder))
            numbers.append(label)
            columns.add(line, cells)
    finally:
        os.close(folder)
    splits = columns.splits(len(numbers), remarks)
    if labels.strange:
        remarks.append(
            f"{path} is not UTF-8; read as Windows' cp1252 it holds the labels"
            f" {join_names(labels.strange)}. If they look wrong, save the table as UTF-8"
        )
    paths = Paths.split(path.parent, text)
    return Listing(paths, tuple(labels.names), *arrays(numbers, splits, stats))


def listed(path: Path) -> list[str]:
    """Return the paths in the column path of a table, or in a .txt file, one a line, as written.

    Raises UserError if the file is neither.
    """
    try:
        table = _described(path, {"path"}, "expected a column path")
    except UserError:
        if path.suffix.lower() != ".txt":
            raise
        with _open(path, _encoding_of(path)) as file:
            return [line.strip() for line in file if line.strip()]
    place = table.columns.index("path")
    return [cells[place].strip() for _, cells in table.rows()]


def _encoding_of(path: Path) -> str:
    with path.open("rb") as binary:
        start = binary.read(4096)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in start:  # UTF-16 without a mark
        encoding = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    return encoding


def _described(path: Path, needed: set[str], expected: str) -> _Table:
    """Return a table's encoding, separator and columns. Raises UserError."""
    encoding = _encoding_of(path)
    try:
        with _open(path, encoding) as file:
            line, first = file.readline(), 0
            if line.strip().lower().startswith("sep="):  # Excel's own
                line, first = file.readline(), 1
    except UnicodeError as error:
        raise UserError(f"{path} can't be read as {encoding}: {error}.") from None
    for separator in SEPARATORS:
        columns = _columns(line, separator)
        if needed <= set(columns):
            return _Table(path, encoding, separator, columns, first)
    raise UserError(f"{path} begins with the line '{line.strip()[:SHOWN]}'; {expected}.")


def _open(path: Path, encoding: str):  # type: ignore[no-untyped-def]
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    return path.open(newline="", encoding=encoding, errors=errors)


def _columns(line: str, separator: str) -> tuple[str, ...]:
    cells = next(csv.reader([line], delimiter=separator), [])
    return tuple(as_text(name).strip().lower() for name in cells)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
