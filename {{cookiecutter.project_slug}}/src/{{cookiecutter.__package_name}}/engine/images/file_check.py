"""Checking image files: each is read and decoded once, and again only after it has changed.

The results are kept in a small database in the user's cache folder, by path, size and modification
time. If it is deleted, the next run checks the files again.
"""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..hardware import this_machine
from ..paths import cache_folder, exclusive_lock
from . import decode, jpeg_messages
from .inspection import Inspected, inspect

TABLE = "files (path BLOB PRIMARY KEY, size INT, changed INT, sha256 TEXT, problem TEXT,"
TABLE += " note TEXT, peak INT)"
AT_ONCE = 1000  # files between two commits: the most that an interrupted check repeats


def check(paths: list[Path]) -> list[Inspected]:
    """Return what `inspect` finds in each file.

    Of several processes on one machine the first checks the files; the others wait and then read
    its results.
    """
    folder = cache_folder() / "checked-images"
    name = f"files-{decode.VERSION}.sqlite"
    results: list[Inspected] = []
    with (
        jpeg_messages.heard(),
        exclusive_lock(folder) as writable,
        closing(sqlite3.connect(folder / name if writable else ":memory:")) as database,
        ThreadPoolExecutor(this_machine().cores) as threads,
        tqdm(total=len(paths), desc="checking images", delay=1, disable=None) as bar,
    ):
        database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
        for start in range(0, len(paths), AT_ONCE):
            some = paths[start : start + AT_ONCE]
            keys = [_key(path) for path in some]
            these = f"SELECT * FROM files WHERE path IN ({','.join('?' * len(keys))})"
            known = {row[:3]: row[3:] for row in database.execute(these, [key[0] for key in keys])}
            found: list[Any] = [known.get(key) for key in keys]
            new = [i for i, result in enumerate(found) if result is None]
            for i, result in zip(new, threads.map(inspect, [some[i] for i in new]), strict=True):
                found[i] = result
                bar.update()
            rows = [(*keys[i], *found[i]) for i in new if found[i][0]]  # without unreadable files
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            database.commit()
            bar.update(len(some) - len(new))
            results += [Inspected(*result) for result in found]
    return results


def _key(path: Path) -> tuple[bytes, int, int]:
    """Return a file's path, size and modification time."""
    name = os.fsencode(path.absolute())
    try:
        status = path.stat()
    except OSError:  # a broken link, which inspect() reports
        return name, 0, 0
    return name, status.st_size, status.st_mtime_ns
