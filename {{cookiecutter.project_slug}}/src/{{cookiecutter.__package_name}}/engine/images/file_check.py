"""What is known about image files: each is read and decoded once, and remembered until it changes.

The memory is a small database in the user's cache folder, by a file's size and time of change;
deleting it costs nothing but the next check.
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
from .decode import inspect

TABLE = "files (path BLOB PRIMARY KEY, size INT, changed INT, sha256 TEXT, problem TEXT)"
AT_ONCE = 1000  # files between two writes: what a killed check has to do again


def check(paths: list[Path]) -> list[tuple[str, str | None]]:
    """Return each file's SHA-256 and, if it can't be used as an image, why not.

    Several processes of one machine wait for the first of them, and then remember what it found.
    """
    folder = cache_folder() / "checked-images"
    results: list[Any] = []
    with (
        exclusive_lock(folder) as writable,
        closing(sqlite3.connect(folder / "files.sqlite" if writable else ":memory:")) as memory,
        ThreadPoolExecutor(this_machine().cores) as threads,
        tqdm(total=len(paths), desc="checking images", delay=1, disable=None) as bar,
    ):
        memory.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
        for start in range(0, len(paths), AT_ONCE):
            some = paths[start : start + AT_ONCE]
            keys = [_key(path) for path in some]
            these = f"SELECT * FROM files WHERE path IN ({','.join('?' * len(keys))})"
            known = {row[:3]: row[3:] for row in memory.execute(these, [key[0] for key in keys])}
            found: list[Any] = [known.get(key) for key in keys]
            new = [i for i, result in enumerate(found) if result is None]
            for i, result in zip(new, threads.map(inspect, [some[i] for i in new]), strict=True):
                found[i] = result
                bar.update()
            rows = [(*keys[i], *found[i]) for i in new if found[i][0]]  # not what can't be read
            memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
            memory.commit()
            bar.update(len(some) - len(new))
            results += found
    return results


def _key(path: Path) -> tuple[bytes, int, int]:
    """Return a file's place, size and time of change."""
    name = os.fsencode(path.absolute())
    try:
        status = path.stat()
    except OSError:  # a link to nothing: inspect() says so
        return name, 0, 0
    return name, status.st_size, status.st_mtime_ns
