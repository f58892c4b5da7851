"""The result of an image source: three splits, of pixels or of files, and the classes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ..contract import Splits
from ..hashing import sha256_of
from .batch import ImageBatch


@dataclass(frozen=True)
class Files:
    """One split of image files: `paths` and `sha256` bytes (n,), `labels` int64 (n,).

    `bits` are those that the 16-bit images of the data set use: see depth.py. `channels` are those
    that each image is read with: see channels.py.
    """

    paths: np.ndarray
    labels: Tensor
    sha256: np.ndarray
    bits: int = 16
    channels: int = 3

    @property
    def n(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Path:
        return Path(os.fsdecode(self.paths[index]))


@dataclass(frozen=True)
class ImageSplits(Splits):
    """A data set of images; each split is an ImageBatch of all its images, or Files.

    `remarks` are notes for the user, such as which images were left out.
    """

    classes: tuple[str, ...] = field(kw_only=True)
    remarks: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the classes and the content of all three splits."""
        contents = (content(part) for part in (self.train, self.val, self.test))
        return sha256_of([" ".join([repr(self.classes), *contents]).encode()])


def content(split: ImageBatch | Files) -> str:
    """Return the SHA-256 of all pixels, or files, and labels. It does not depend on paths."""
    labels = split.labels.numpy().tobytes()
    if isinstance(split, Files):
        return sha256_of([b" ".join(split.sha256.tolist()), labels])
    pixels = split.images.permute(0, 2, 3, 1)
    return sha256_of([repr(tuple(pixels.shape)).encode(), pixels.numpy().tobytes(), labels])
