"""Checking image files: each is read and decoded once, and again only after it has changed.

The results are kept in a small database in the user's cache folder, by path, size and modification
time. If it is deleted, the next run checks the files again.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..hardware import this_machine
from ..paths import cache_folder, exclusive_lock
from . import decode, jpeg_messages
from .checked_files import CheckedFiles, Key
from .inspection import Inspected, inspect

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
        closing(CheckedFiles(folder / name if writable else None)) as files,
        ThreadPoolExecutor(this_machine().cores) as threads,
        tqdm(total=len(paths), desc="checking images", delay=1, disable=None) as bar,
    ):
        for start in range(0, len(paths), AT_ONCE):
            some = paths[start : start + AT_ONCE]
            keys = [_key(path) for path in some]
            known = files.known(keys)
            found: list[Any] = [known.get(key) for key in keys]
            new = [i for i, result in enumerate(found) if result is None]
            for i, result in zip(new, threads.map(inspect, [some[i] for i in new]), strict=True):
                found[i] = result
                bar.update()
            files.add((*keys[i], *found[i]) for i in new if found[i][0])  # without unreadable ones
            bar.update(len(some) - len(new))
            results += [Inspected(*result) for result in found]
    return results


def _key(path: Path) -> Key:
    """Return a file's path, size and modification time."""
    name = os.fsencode(path.absolute())
    try:
        status = path.stat()
    except OSError:  # a broken link, which inspect() reports
        return name, 0, 0
    return name, status.st_size, status.st_mtime_ns
