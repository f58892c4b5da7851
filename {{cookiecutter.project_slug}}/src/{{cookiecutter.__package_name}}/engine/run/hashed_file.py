"""A file that is hashed, and sent to the disk, while it is written."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Condition
from typing import Any

HASHED_AT_ONCE, SYNCED_AT_ONCE = 4 << 20, 64 << 20  # bytes


class HashedFile:
    """A new file for a `with` block. Two threads follow what is written to it.

    Args:
        path: the file.
        sync: waits until what a file holds so far is on the disk.
    """

    def __init__(self, path: Path, sync: Callable[[Path], None]) -> None:
        self.path, self.sync, self.changed = path, sync, Condition()
        self.size, self.complete, self.sha256 = 0, False, hashlib.sha256()

    def __enter__(self) -> "HashedFile":
        self.file = self.path.open("wb")
        threads = ThreadPoolExecutor(2)
        self.following = [threads.submit(self._hash), threads.submit(self._sync)]
        threads.shutdown(wait=False)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Wait until the file is complete, hashed and on the disk."""
        with self.changed:
            self.complete = True
            self.changed.notify_all()
        failed = [each.exception() for each in self.following]
        self.file.close()
        for reason in filter(None, failed):
            raise reason

    def write(self, content: bytes | memoryview) -> int:
        written = self.file.write(content)
        self.file.flush()
        with self.changed:
            self.size += written
            self.changed.notify_all()
        return written

    def flush(self) -> None:
        """Do nothing: what was written is in the file already."""

    def _hash(self) -> None:
        with self.path.open("rb") as file:
            for size in self._sizes(HASHED_AT_ONCE):
                while part := file.read(min(size - file.tell(), HASHED_AT_ONCE)):
                    self.sha256.update(part)
            if file.tell() != self.size:
                raise OSError(errno.EIO, f"only {file.tell()} of {self.size} bytes can be read")

    def _sync(self) -> None:
        for _ in self._sizes(SYNCED_AT_ONCE):
            self.sync(self.path)

    def _sizes(self, step: int) -> Iterator[int]:
        """Yield the size whenever at least `step` more bytes are written, and when all are."""
        seen = 0
        while True:
            with self.changed:
                self.changed.wait_for(partial(self._has, seen + step))
                seen, complete = self.size, self.complete
            yield seen
            if complete:
                return

    def _has(self, size: int) -> bool:
        return self.complete or self.size >= size
