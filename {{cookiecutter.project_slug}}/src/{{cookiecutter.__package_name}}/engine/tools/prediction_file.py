"""The table of predictions as a file: it appears whole or not at all, or with the rows so far."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, Self

from ..errors import UserError
from ..run.checkpoint_files import fsync

ROWS_AT_ONCE = 1 << 14  # in a group of a Parquet file
STDOUT = "-"


class Column(NamedTuple):
    """A column of str, int or float; in CSV, a float may have so many `digits` after the point."""

    name: str
    kind: type
    digits: int | None = None


class Table(Protocol):
    """Rows in the format of a file; None is an empty cell."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None: ...
    def end(self) -> None: ...


class PredictionFile:
    """The file `out`, a .csv or .parquet file or "-" for standard output.

    The rows go to a file beside it, which gets its name in keep(). At the end of the block, it is
    removed if that was not called. `n` is the number of rows. Raises UserError if the file can't be
    written; check_out() tells what else may be wrong with `out`.
    """

    def __init__(self, out: str) -> None:
        self.n, self.table = 0, None
        self.path = None if out == STDOUT else Path(out).expanduser().resolve()
        if self.path is None:
            self.file: BinaryIO = sys.stdout.buffer
            return
        self.unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.unfinished")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.unfinished.open("wb")
        except OSError as error:
            raise self._unwritable(error) from None

    table: Table | None

    def begin(self, columns: Sequence[Column]) -> None:
        suffix = ".csv" if self.path is None else self.path.suffix.lower()
        self.table = FORMATS[suffix](self.file, columns)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        assert self.table is not None
        try:
            self.table.write(rows)
            if self.path is None:
                self.table.end()  # who reads it sees each row at once
        except OSError as error:
            raise self._unwritable(error) from None
        self.n += len(rows)

    def keep(self) -> None:
        """Complete the file. Raises UserError if the disk is full."""
        assert self.table is not None
        try:
            self.table.end()
            if self.path is not None:
                self.file.close()
                fsync(self.unfinished)
                self.unfinished.replace(self.path)
                fsync(self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.path is None:
            return
        with suppress(OSError, ValueError):  # the disk is full, or the file is complete
            if self.table is not None:
                self.table.end()  # a writer of Parquet that is still open would complain
        with suppress(OSError):
            self.file.close()
        self.unfinished.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> Exception:
        if self.path is None:  # what reads standard output has ended
            return error
        return UserError(
            f"--out {self.path} can't be written: {error.strerror}. Choose another file or disk."
        )


class Csv:
    """Comma-separated values in UTF-8."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        self.file, self.columns = file, columns
        self._write([[column.name for column in columns]])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        formats = ["" if c.digits is None else f".{c.digits}f" for c in self.columns]
        self._write(
            [
                [format(cell, as_) if as_ and cell is not None else cell for cell, as_ in pairs]
                for pairs in (zip(row, formats, strict=True) for row in rows)
            ]
        )

    def _write(self, rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.file.write(text.getvalue().encode("utf-8", "backslashreplace"))

    def end(self) -> None:
        self.file.flush()


class Parquet:
    """Parquet, by pyarrow."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
        self.schema = pyarrow.schema([(column.name, types[column.kind]) for column in columns])
        self.writer, self.waiting = ParquetWriter(file, self.schema), list[Sequence[Any]]()

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        self.waiting += rows
        if len(self.waiting) >= ROWS_AT_ONCE:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow

        columns = [list(cells) for cells in zip(*self.waiting, strict=True)]
        self.writer.write_table(pyarrow.table(columns, schema=self.schema))
        self.waiting = []

    def end(self) -> None:
        if self.waiting:
            self._write_group()
        self.writer.close()


def check_out(out: str) -> None:
    """Raise UserError if the table can't have this name."""
    path = Path(out).expanduser()
    if out == STDOUT:
        return
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no file"
        raise UserError(f"--out {out} is {kind}; expected a .csv or .parquet file, or -.")
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out is {out}; expected a name that ends in .csv or .parquet, or -.")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(
            f"--out is {out}, but Parquet needs pyarrow, which is not installed: make add"
            " PKG=pyarrow, or choose a .csv file."
        )


FORMATS: dict[str, type[Csv] | type[Parquet]] = {".csv": Csv, ".parquet": Parquet}
