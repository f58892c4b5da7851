"""Reading the rows of one file: CSV, TSV, JSON lines or Parquet.

Whatever is wrong with a row is said of the row, so that its reader decides what happens.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..plurals import counted
from .names import join_names

DELIMITED = (".csv", ".tsv", ".tab", ".txt")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = ".parquet"
SUFFIXES = (*DELIMITED, *JSON_LINES, PARQUET)
MOST_LETTERS = 1_000_000  # of a row: more is a mistake in the file, such as a quote left open
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks

# The number of a row's first line, or of a row of Parquet, from 1; its cells, or what is wrong.
Row = tuple[int, list[Any] | str]
Fits = Callable[[Sequence[str]], bool]  # whether columns are those that are looked for


@dataclass(frozen=True)
class Layout:
    """How delimited text is written.

    Args:
        quotes: whether quotes enclose a cell. If None, they do in .csv, and are letters in .tsv.
        encoding: the encoding; files that begin with UTF-16's mark are read as such.
        columns: the names of the columns if the file doesn't begin with them.
    """

    quotes: bool | None = None
    encoding: str = "utf-8"
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TableFile:
    """A file with its columns; `rows()` reads it, a row at a time."""

    path: Path
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]


def open_table(path: Path, fits: Fits, layout: Layout) -> TableFile:
    """Return a file's columns and rows; `fits` tells which separator is the right one.

    Raises UserError if the file is none that can be read.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        return _delimited(path, fits, layout)
    if suffix in JSON_LINES:
        return _json_lines(path, layout)
    if suffix == PARQUET:
        return _parquet(path)
    raise UserError(f"{path} is not a table: expected a file that ends in {', '.join(SUFFIXES)}.")


def _delimited(path: Path, fits: Fits, layout: Layout) -> TableFile:
    tabs = path.suffix.lower() in (".tsv", ".tab")
    quotes = not tabs if layout.quotes is None else layout.quotes
    separators = "\t,;|" if tabs else ",;\t|"
    columns, separator = layout.columns, "\t"
    if columns is None:
        choices = _headers(
            path, next(lines_of(path, layout.encoding, quotes), ""), separators, quotes
        )
        by_width = max(choices, key=lambda choice: len(choice[1]))
        separator, columns = next((each for each in choices if fits(each[1])), by_width)

    def rows() -> Iterator[Row]:
        lines = lines_of(path, layout.encoding, quotes)
        for line, cells in _cells(path, lines, separator, quotes):
            if line > 1 or layout.columns is not None:
                yield line, _checked(cells, columns)

    return TableFile(path, columns, rows)


def _headers(
    path: Path, line: str, separators: str, quotes: bool
) -> list[tuple[str, tuple[str, ...]]]:
    """Return for each separator the names of the columns that a file's first line would have."""
    if not line.strip():
        raise UserError(f"{path} is empty: expected a line with the names of the columns.")
    choices, refused = [], list[UserError]()
    for separator in separators:
        try:
            _, cells = next(_cells(path, iter([line]), separator, quotes))
        except UserError as error:  # in "text","label", what follows a quote is no semicolon
            refused.append(error)
            continue
        if isinstance(cells, str):
            raise UserError(f"{path}:1 {cells}.")
        choices.append((separator, tuple(cell.strip() for cell in cells)))
    if not choices:
        raise refused[0]
    return choices


def _cells(path: Path, lines: Iterator[str], separator: str, quotes: bool) -> Iterator[Row]:
    """Yield each row's first line, and its cells or what is wrong. Empty lines are left out."""
    if not quotes:
        for number, line in enumerate(lines, 1):
            text = line.rstrip("\r\n")
            if text:
                yield number, problem_in(text) or text.split(separator)
        return
    limit = csv.field_size_limit(MOST_LETTERS)
    rows, first = csv.reader(lines, delimiter=separator, strict=True), 1
    try:
        for cells in rows:
            if cells:
                yield first, problem_in(separator.join(cells)) or cells
            first = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{first} can't be split into cells at {separator!r}: {error}. Double each quote"
            " inside a cell, or set --data.options.quotes false if quotes are letters here."
        ) from None
    finally:
        csv.field_size_limit(limit)


def lines_of(path: Path, encoding: str, quotes: bool) -> Iterator[str]:
    """Yield a file's lines. Without quotes, only a line feed ends a line. Raises UserError."""
    with path.open("rb") as binary:
        marked = binary.read(2) in UTF_16
    encoding = "utf-16" if marked else encoding
    if encoding.lower().replace("-", "") == "utf8":
        encoding = "utf-8-sig"
    errors = "strict" if marked else "surrogateescape"
    try:
        with path.open(newline="" if quotes else "\n", encoding=encoding, errors=errors) as file:
            yield from file
    except LookupError:
        raise UserError(
            f"data.options.encoding is '{encoding}', which is unknown; expected one such as utf-8"
            " or cp1252."
        ) from None
    except UnicodeError as error:
        raise UserError(f"{path} can't be read as {encoding}: {error}. Save it as UTF-8.") from None


def problem_in(text: str) -> str | None:
    """Return what is wrong with the text of a row, or None."""
    if len(text) > MOST_LETTERS:
        return f"has {len(text):,} characters; expected at most {MOST_LETTERS:,}"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00  # how surrogateescape keeps it
        if 0x80 <= byte <= 0xFF:
            return f"has the byte 0x{byte:02X}, which is not UTF-8 (see data.options.encoding)"
        return "has half of a character (a lone surrogate)"
    return None


def _checked(cells: list[Any] | str, columns: tuple[str, ...]) -> list[Any] | str:
    """Return the cells of a row, one a column, or what is wrong with them."""
    width = len(columns)
    if isinstance(cells, str) or len(cells) == width:
        return cells
    if len(cells) > width and not any(cells[width:]):
        return cells[:width]
    return f"has {counted(len(cells), 'cell')}; expected {width}: {join_names(columns)}"


def _json_lines(path: Path, layout: Layout) -> TableFile:
    def objects() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(lines_of(path, layout.encoding, quotes=False), 1):
            if not line.strip():
                continue
            try:
                yield number, problem_in(line) or json.loads(line.rstrip("\r\n"))
            except json.JSONDecodeError as error:
                what = error.msg.rstrip(": ").removesuffix(" at")
                yield number, f"is not JSON: {what} at character {error.colno}"

    number, first = next(objects(), (1, "is empty"))
    if not isinstance(first, dict):
        found = first if isinstance(first, str) else f"is a {type(first).__name__}"
        raise UserError(
            f"{path}:{number} {found}; expected one JSON object a line, such as"
            ' {"text": "…", "label": "…"}.'
        )
    columns = tuple(first)

    def rows() -> Iterator[Row]:
        for line, found in objects():
            if isinstance(found, dict):
                yield line, [found.get(name) for name in columns]
            elif isinstance(found, str):
                yield line, found
            else:
                yield line, f"is a {type(found).__name__}; expected a JSON object"

    return TableFile(path, columns, rows)


def _parquet(path: Path) -> TableFile:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as Parquet: {error}") from None
    columns = tuple(file.schema_arrow.names)

    def rows() -> Iterator[Row]:
        batches = (batch.to_pydict().values() for batch in file.iter_batches())
        every = chain.from_iterable(zip(*batch, strict=True) for batch in batches)
        for number, cells in enumerate(every, 1):
            texts = " ".join(cell for cell in cells if isinstance(cell, str))
            yield number, problem_in(texts) or list(cells)

    return TableFile(path, columns, rows)
