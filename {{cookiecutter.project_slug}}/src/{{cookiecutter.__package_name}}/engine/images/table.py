"""Reading a table of images: a CSV file with the columns path, label and, optionally, a split.

Spreadsheets write such files in several encodings, with other separators, and people name the
column of the split in many ways. What is read is never guessed without a remark.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .listing import ImageEntry
from .names import SPLITS, FilesOnDisk, as_text, join_names, split_of

SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
SEPARATORS = ",;\t|"
SPLIT_COLUMNS = ("split", "splits", "partition", "phase", "fold", "set", "subset", "usage")
MAX_VALUES = 12  # distinct values that are remembered of a column

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

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the number of each row's last line, and its cells. Raises UserError."""
        with _open(self.path, self.encoding) as file:
            for _ in range(self.first):
                next(file)
            rows = csv.reader(file, delimiter=self.separator)
            next(rows)
            try:
                for cells in rows:
                    if any(cells[len(self.columns) :]):
                        raise UserError(
                            f"{self.path}, line {rows.line_num + self.first}: {len(cells)} cells;"
                            f" expected {len(self.columns)}. Put quotes around a cell that"
                            f" contains {self.separator!r}."
                        )
                    if any(cells):
                        cells = [cell.strip() for cell in cells]
                        row = dict(zip(self.columns, cells, strict=False))
                        yield rows.line_num + self.first, row
            except csv.Error as error:
                raise UserError(
                    f"{self.path}, line {rows.line_num + self.first}: {error}. Expected cells"
                    f" separated by {self.separator!r}."
                ) from None
            except UnicodeError as error:
                raise UserError(
                    f"{self.path} can't be read as {self.encoding}: {error}. Save it as UTF-8."
                ) from None


def from_table(path: Path, remarks: list[str]) -> Iterator[ImageEntry]:
    """Yield the images of a table; what its reader should know is added to `remarks`.

    Raises UserError if the file or a row is not as expected.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is neither a folder nor a .csv file with path,label[,split].")
    table, disk = _described(path), FilesOnDisk(path.parent)
    column, strange = _split_column(table, remarks), list[str]()
    for line, row in table.rows():
        if not row.get("path") or not row.get("label") or "\0" in row["path"]:
            raise UserError(f"{path}, line {line}: expected a path and a label.")
        given = row.get(column, "") if column else ""
        split = split_of(given)
        if given and split is None:
            raise UserError(
                f"{path}, line {line}: the {column} is '{as_text(given)}'; expected"
                f" {', '.join(SPLITS)}."
            )
        label = as_text(row["label"])
        if not _is_unicode(row["label"]) and label not in strange:
            strange.append(label)
        yield ImageEntry(disk.find(row["path"]), label, split)
    if strange:
        remarks.append(
            f"{path} is not UTF-8; read as Windows' cp1252 it holds the labels"
            f" {join_names(strange)}. If they look wrong, save the table as UTF-8"
        )


def _described(path: Path) -> _Table:
    """Return a table's encoding, separator and columns. Raises UserError."""
    with path.open("rb") as binary:
        start = binary.read(4096)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in start:  # UTF-16 without a mark
        encoding = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    try:
        with _open(path, encoding) as file:
            line, first = file.readline(), 0
            if line.strip().lower().startswith("sep="):  # Excel's own
                line, first = file.readline(), 1
    except UnicodeError as error:
        raise UserError(f"{path} can't be read as {encoding}: {error}.") from None
    for separator in SEPARATORS:
        columns = _columns(line, separator)
        if {"path", "label"} <= set(columns):
            return _Table(path, encoding, separator, columns, first)
    raise UserError(f"{path} begins with {list(_columns(line, ','))}; expected path,label[,split].")


def _open(path: Path, encoding: str):  # type: ignore[no-untyped-def]
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    return path.open(newline="", encoding=encoding, errors=errors)


def _columns(line: str, separator: str) -> tuple[str, ...]:
    cells = next(csv.reader([line], delimiter=separator), [])
    return tuple(as_text(name).strip().lower() for name in cells)


def _split_column(table: _Table, remarks: list[str]) -> str | None:
    """Return the column that gives the split, by its name or its values, or None.

    Raises UserError if two columns give one.
    """
    others = [name for name in dict.fromkeys(table.columns) if name not in ("path", "label", "")]
    if others in ([], ["split"]):
        return "split" if others else None
    values: dict[str, set[str]] = {name: set() for name in others}
    for _, row in table.rows():
        for name, seen in values.items():
            if len(seen) < MAX_VALUES and row.get(name):
                seen.add(row[name])
    splits = [name for name in others if _gives_split(name, values[name])]
    if len(splits) > 1:
        raise UserError(
            f"{table.path}: the columns {join_names(splits)} all give a split. Keep one."
        )
    unused = [name for name in others if name not in splits]
    if unused:
        divided = "" if splits else "; the table gives no split"
        remarks.append(f"{table.path}: columns not used: {join_names(unused)}{divided}")
    return splits[0] if splits else None


def _gives_split(name: str, values: set[str]) -> bool:
    """Return whether a column gives the split.

    A column called split does. One with another usual name does if a value is a split, so that a
    wrong value is reported. Any other does if all of its values are splits, and one is train.
    """
    splits = {split_of(value) for value in values}
    if name in SPLIT_COLUMNS:
        return bool(splits - {None}) or (name == "split" and bool(values))
    return "train" in splits and None not in splits and len(splits) > 1


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
