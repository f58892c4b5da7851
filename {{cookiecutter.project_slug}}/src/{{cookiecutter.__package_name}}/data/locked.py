"""A folder on disk that one process of a machine at a time writes into."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Make a folder and keep others waiting while it is used; false if nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a folder that can only be read, or a file system without locks
        yield False
        return
    with lock:
        yield True
