"""The files that a check beside training has found to be of no use: see later.py."""

import os
import tempfile
from dataclasses import dataclass
from mmap import mmap
from multiprocessing import get_start_method
from pathlib import Path
from typing import Any

import numpy as np


class LeftOut:
    """A flag for each of n files, in memory that this host's processes share: uint8 (n,).

    Other ranks map it from a file. Without a folder for temporary files, only the processes that
    this one forks share it.
    """

    def __init__(self, n: int) -> None:
        self.owner, self.flags = os.getpid(), np.frombuffer(mmap(-1, n), np.uint8)
        self.file: Path | None = None
        try:
            handle, name = tempfile.mkstemp(prefix="files-left-out-")
        except OSError:
            return
        self.file = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(bytes(n))
            self.flags = np.memmap(name, np.uint8, "r+", shape=(n,))
        except OSError:  # the disk is full
            self.unlink()

    def __reduce__(self) -> Any:
        return _opened, (self.file, self.owner, len(self.flags))

    def mapped(self) -> None:
        """Remove the file now that every rank has mapped it, unless workers will have to."""
        if get_start_method() == "fork":
            self.unlink()

    def unlink(self) -> None:
        """Remove the file; where it is mapped, the memory stays."""
        if self.file is not None and os.getpid() == self.owner:
            self.file.unlink(missing_ok=True)


def _opened(file: Path | None, owner: int, n: int) -> LeftOut:
    """Return the flags of another process; if there is no file, they are of this process alone."""
    shared = LeftOut.__new__(LeftOut)
    shared.file, shared.owner, shared.flags = file, owner, np.zeros(n, np.uint8)
    if file is not None and file.exists():
        shared.flags = np.memmap(file, np.uint8, "r+", shape=(n,))
    return shared


@dataclass(frozen=True)
class Unchecked:
    """What the readers of one split have to know.

    `rows` int32 (n,) are the indices of its files in the list of all. If `skip_bad`, a file that
    can't be read or is flagged as left out is replaced in training, and missing in an evaluation.
    """

    left_out: LeftOut
    rows: np.ndarray
    skip_bad: bool

    def is_left_out(self, row: int) -> bool:
        return bool(self.left_out.flags[self.rows[row]])
