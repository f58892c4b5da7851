"""The files that a check beside training has found to be of no use: see later.py."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class LeftOut:
    """A flag for each of n files, in memory that this host's processes share: uint8 (n,)."""

    def __init__(self, n: int) -> None:
        handle, name = tempfile.mkstemp(prefix="files-left-out-")
        os.truncate(handle, n)
        os.close(handle)
        self.file, self.owner = Path(name), os.getpid()
        self.flags: np.ndarray = np.memmap(name, np.uint8, "r+", shape=(n,))

    def __reduce__(self) -> Any:
        return _opened, (self.file, self.owner, len(self.flags))

    def unlink(self) -> None:
        """Remove the file, once all processes have mapped it; the memory stays."""
        if os.getpid() == self.owner:
            self.file.unlink(missing_ok=True)


def _opened(file: Path, owner: int, n: int) -> LeftOut:
    shared = LeftOut.__new__(LeftOut)
    shared.file, shared.owner = file, owner
    try:
        shared.flags = np.memmap(file, np.uint8, "r+", shape=(n,))
    except OSError:  # a process that was started afresh: its files raise an error when read
        shared.flags = np.zeros(n, np.uint8)
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
