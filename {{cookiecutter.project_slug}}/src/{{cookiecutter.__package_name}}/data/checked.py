"""What is known about image files: each is read and decoded once, and remembered until it changes.

The memory is a small database in the user's cache folder; a file that has the same size and time of
change as before is not read again. Deleting it costs nothing but the next check.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from ..hardware import this_machine
from .decode import inspect

TABLE = "files (path BLOB PRIMARY KEY, size INT, changed INT, sha256 TEXT, problem TEXT)"
AT_ONCE = 1000  # files between two writes: what a killed check has to do again


def check(paths: list[Path]) -> list[tuple[str, str | None]]:
    """Return each file's SHA-256 and, if it can't be used as an image, why not.

    Several processes of one machine wait for the first of them, and then remember what it found.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "checked-images"
    with _memory(folder) as memory:
        stamps = [_stamp(path) for path in paths]
        known = {
            row[0]: row[1:]
            for start in range(0, len(paths), AT_ONCE)
            for row in _remembered(memory, paths[start : start + AT_ONCE])
        }
        names = [os.fsencode(path.absolute()) for path in paths]
        new = [
            i for i, name in enumerate(names) if name not in known or known[name][:2] != stamps[i]
        ]
        bar = tqdm(total=len(new), desc="checking images", unit="", disable=len(new) < AT_ONCE)
        with bar, ThreadPoolExecutor(this_machine().cores) as threads:
            for start in range(0, len(new), AT_ONCE):
                some = new[start : start + AT_ONCE]
                found = threads.map(inspect, [paths[i] for i in some])
                for i, result in zip(some, found, strict=True):
                    known[names[i]] = (*stamps[i], *result)
                    bar.update()
                rows = [(names[i], *known[names[i]]) for i in some]
                memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
                memory.commit()
    return [known[name][2:] for name in names]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nothing: inspect() says so
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _remembered(memory: sqlite3.Connection, paths: list[Path]) -> list[tuple]:
    marks = ",".join("?" * len(paths))
    names = [os.fsencode(path.absolute()) for path in paths]
    return memory.execute(f"SELECT * FROM files WHERE path IN ({marks})", names).fetchall()


@contextmanager
def _memory(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, one process at a time; in memory only where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
        lock, place = folder / "lock", str(folder / "files.sqlite")
    except OSError:
        lock, place = Path(os.devnull), ":memory:"
    with lock.open("a") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        with closing(sqlite3.connect(place)) as memory:
            memory.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
            yield memory
