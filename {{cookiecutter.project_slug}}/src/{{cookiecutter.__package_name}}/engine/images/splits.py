"""What a source returns, three splits of pixels or of files, and the folders that hold them."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class Images:
    """One split in memory: `pixels` uint8 (n, height, width, 3), `labels` int64 (n,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def content(self) -> str:
        """Return SHA-256 over every pixel and label."""
        shape = repr(tuple(self.pixels.shape)).encode()
        return _sha256(shape, self.pixels.numpy().tobytes(), self.labels.numpy().tobytes())


@dataclass(frozen=True)
class Files:
    """One split of image files: `paths` bytes (n,), `labels` int64 (n,), `sha256` of each file."""

    paths: np.ndarray
    labels: Tensor
    sha256: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Path:
        return Path(os.fsdecode(self.paths[index]))

    def content(self) -> str:
        """Return SHA-256 over every file's content and label; where the files lie is not in it."""
        return _sha256(" ".join(self.sha256).encode(), self.labels.numpy().tobytes())


@dataclass(frozen=True)
class Splits:
    """A data set: what it is trained on, chosen by and, once, scored on.

    `remarks` are sentences about it that its owner should read: images left out, and the like.
    """

    classes: tuple[str, ...]
    train: Images | Files
    val: Images | Files
    test: Images | Files
    remarks: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the classes and the content of all three splits."""
        contents = (part.content() for part in (self.train, self.val, self.test))
        return _sha256(" ".join([repr(self.classes), *contents]).encode())


def located(path: str, must_exist: bool = True) -> Path:
    """Return where a path of the configuration leads: from here, or else from the project's folder.

    Raises UserError if there is nothing, and there must be.
    """
    here, from_project = Path(path).expanduser().absolute(), Path(__file__).parents[4] / path
    if must_exist and not here.exists() and not from_project.exists():
        raise UserError(f"{here} does not exist. Put it there, or set --data.options.path.")
    return here if here.exists() else from_project


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


def _sha256(*parts: bytes) -> str:
    content = hashlib.sha256()
    for part in parts:
        content.update(part)
    return content.hexdigest()
