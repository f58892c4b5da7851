"""What is known of image files: a small SQLite database in the user's cache folder.

All in it can be found out again. So whatever is wrong with it, it is created anew, or kept in
memory only: it never ends a run.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TABLE = "files (path BLOB PRIMARY KEY, size INT, changed INT, sha256 TEXT, problem TEXT,"
TABLE += " note TEXT, peak INT, channels INT, picture INT, whole_peak INT)"
COLUMNS = 10
PATIENCE = 5.0  # seconds to wait for another process that writes
AT_ONCE = 500  # values in a query: before its version 3.32, SQLite takes 999

Key = tuple[bytes, int, int]  # a file's path, size and modification time in ns


# SQLite's answers that mean: this file is no such database. To others it may still be of use.
DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class CheckedFiles:
    """The database in a file, or in memory if `file` is None."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        try:
            self.database = _opened(file)
        except sqlite3.Error as error:
            self._start_anew(error)

    def close(self) -> None:
        self.database.close()

    def known(self, keys: Sequence[Key]) -> dict[Key, tuple[Any, ...]]:
        """Return what `Inspected` holds, as a tuple, of the files with these keys."""
        found: dict[Key, tuple[Any, ...]] = {}
        for start in range(0, len(keys), AT_ONCE):
            paths = [key[0] for key in keys[start : start + AT_ONCE]]
            these = f"SELECT * FROM files WHERE path IN ({','.join('?' * len(paths))})"
            try:
                found |= {row[:3]: row[3:] for row in self.database.execute(these, paths)}
            except sqlite3.Error as error:
                self._start_anew(error)
        return found

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Keep these rows of the table."""
        try:
            with self.database:  # a transaction
                self.database.executemany(
                    f"INSERT OR REPLACE INTO files VALUES ({','.join('?' * COLUMNS)})", rows
                )
        except sqlite3.Error as error:
            self._start_anew(error)

    def _start_anew(self, error: sqlite3.Error) -> None:
        """Go on with an empty database: a new file if the old one is damaged, else in memory."""
        file, self.file = self.file, None  # the second time, in memory
        code = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
        if file is not None and code & 0xFF in DAMAGED:
            with suppress(OSError, sqlite3.Error):
                for path in file.parent.glob(f"{file.name}*"):  # and its journal
                    path.unlink()
                self.database = _opened(file)
                return
        self.database = _opened(None)


def _opened(file: Path | None) -> sqlite3.Connection:
    """Return the database in a file, with its table. Raises sqlite3.Error if that can't be."""
    database = sqlite3.connect(file or ":memory:", timeout=PATIENCE)
    database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
    database.execute(
        "SELECT path, size, changed, sha256, problem, note, peak, channels, picture, whole_peak"
        " FROM files LIMIT 1"
    )
    return database
