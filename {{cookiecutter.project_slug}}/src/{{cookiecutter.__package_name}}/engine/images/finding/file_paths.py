"""Paths of any number of files in two arrays, which processes share. A path takes its own bytes
and 12 more; as a Path object it would take several hundred."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Paths:
    """n paths, absolute or in the folder `root`.

    `text` is uint8: paths, each followed by a zero byte. `starts` int64 (n,) and `lengths` int32
    (n,) say where each is in it.
    """

    root: bytes
    text: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def split(cls, root: str | Path, text: bytes | bytearray | np.ndarray) -> Self:
        """Return the paths in a text, in its order."""
        found = text if isinstance(text, np.ndarray) else np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(found == 0)
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1] + 1
        return cls(os.fsencode(root), found, starts, (ends - starts).astype(np.int32))

    @classmethod
    def of(cls, root: str | Path, paths: Iterable[str | Path]) -> Self:
        return cls.split(root, joined(paths))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Path:
        return Path(os.fsdecode(self.root)) / os.fsdecode(self.written(index))

    def location(self, index: int) -> bytes:
        """Return a path as system calls take it, in less time than a Path."""
        return os.path.join(self.root, self.written(index))  # noqa: PTH118

    def written(self, index: int) -> bytes:
        """Return a path as it is in the text."""
        start = self.starts[index]
        return self.text[start : start + self.lengths[index]].tobytes()

    def take(self, index: np.ndarray) -> "Paths":
        """Return the paths at `index`, integers (k,) or bool (n,). They use the same text."""
        return Paths(self.root, self.text, self.starts[index], self.lengths[index])

    def hashes(self) -> np.ndarray:
        """Return a hash of each path of a whole text, int64 (n,); others in another process."""
        hashes, start = np.empty(len(self), np.int64), 0
        for end in _ends_of_parts(self.starts):
            stop = int(self.starts[end]) if end < len(self) else len(self.text)
            part = self.text[int(self.starts[start]) : stop].tobytes()
            hashes[start:end] = np.fromiter(map(hash, part.split(b"\0")[:-1]), np.int64)
            start = end
        return hashes

    def digests(self, sizes: np.ndarray) -> np.ndarray:
        """Return the SHA-256 of each path as it is in the text, with a size: uint8 (n, 32)."""
        named = (b"%s\0%d" % (self.written(i), size) for i, size in enumerate(sizes.tolist()))
        digests = b"".join(hashlib.sha256(each).digest() for each in named)
        return np.frombuffer(bytearray(digests), np.uint8).reshape(-1, 32)


def joined(paths: Iterable[str | Path]) -> bytes:
    """Return paths in the form of `Paths.text`: each is followed by a zero byte."""
    return os.fsencode("".join(f"{path}\0" for path in paths))


def _ends_of_parts(starts: np.ndarray) -> list[int]:
    """Return the ends of runs of paths of about a mebibyte each."""
    if not len(starts):
        return []
    parts = range(int(starts[0]) + MEBIBYTE, int(starts[-1]), MEBIBYTE)
    inner = np.searchsorted(starts, np.fromiter(parts, np.int64))
    return [*dict.fromkeys(inner[inner > 0].tolist()), len(starts)]
