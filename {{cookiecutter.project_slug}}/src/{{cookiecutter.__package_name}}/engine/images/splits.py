"""The result of an image source: three splits, of pixels or of files, and the classes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contract import Splits
from ..data.first_batch import described
from ..errors import UserError
from ..hashing import sha256_of
from ..model.objectives import ObjectiveName
from .arrays import check_classes, check_labels
from .batch import ImageBatch
from .checking.left_out import Unchecked
from .finding.file_paths import Paths
from .later import LaterCheck

DIGEST = 32  # bytes of a SHA-256
AT_ONCE = 1 << 11  # files whose digests are hashed together


@dataclass(frozen=True)
class Files:
    """One split of n image files: `labels` as in ImageBatch, `sha256` uint8 (n, 32).

    `bits` are those that the 16-bit images of the data set use: see depth.py. `channels` are those
    that each image is read with: see channels.py. If the files are `unchecked`, the digests are of
    their names and sizes, not of their content.
    """

    paths: Paths
    labels: Tensor
    sha256: np.ndarray
    bits: int = 16
    channels: int = 3
    unchecked: Unchecked | None = None

    @property
    def n(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Path:
        return self.paths[index]


@dataclass(frozen=True)
class ImageSplits(Splits):
    """A data set of images; each split is an ImageBatch of all its images, or Files.

    `remarks` are notes for the user, such as which images were left out. `later` is the check of
    files that were not checked yet.
    """

    classes: tuple[str, ...] = field(kw_only=True)
    remarks: tuple[str, ...] = field(default=(), kw_only=True)
    later: LaterCheck | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Raise UserError if a split has no images, or its labels don't fit the classes."""
        check_classes(self.classes)
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            if hasattr(part, "take") or (part is None and name == "test"):
                continue
            _check(part, name)
            check_labels(part.labels, self.classes, name)

    @property
    def objective(self) -> ObjectiveName:
        """What an image has: one of the classes, any number of them, or a number."""
        if self.train.labels.is_floating_point():
            return "labels" if self.train.labels.ndim == 2 else "numbers"
        return "classes"

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the classes and the content of all three splits."""
        parts = (part for part in (self.train, self.val, self.test) if part is not None)
        contents = map(content, parts)
        return sha256_of([" ".join([repr(self.classes), *contents]).encode()])


def _check(split: Any, name: str) -> None:
    """Raise UserError if a split is neither images in memory, uint8, nor files."""
    if isinstance(split, Files):
        return
    if not isinstance(split, ImageBatch):
        raise UserError(
            f"ImageSplits: {name} is of the type {type(split).__name__}; expected what"
            " in_memory(pixels, labels) returns, or a split of folder()."
        )
    if split.images.dtype != torch.uint8 or split.images.ndim != 4:
        raise UserError(
            f"ImageSplits: the images of {name} are {described(split.images)}; expected uint8"
            " (n, channels, height, width), as in_memory(pixels, labels) returns them."
        )


def content(split: ImageBatch | Files) -> str:
    """Return the SHA-256 of all pixels, or files, and labels. It does not depend on paths."""
    labels = split.labels.numpy().tobytes()
    if isinstance(split, Files):
        return sha256_of(chain(_in_hexadecimal(split.sha256), [labels]))
    pixels = split.images.permute(0, 2, 3, 1).numpy()
    return sha256_of([repr(pixels.shape).encode(), pixels.reshape(-1).data, labels])


def _in_hexadecimal(digests: np.ndarray) -> Iterator[bytes]:
    """Yield the digests, uint8 (n, 32), as text, separated by spaces."""
    for start in range(0, len(digests), AT_ONCE):
        some = digests[start : start + AT_ONCE].tobytes()
        yield b" " * (start > 0) + some.hex(" ", DIGEST).encode()
