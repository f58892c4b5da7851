"""Giving the images of a source the number of channels that data.channels sets."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import UserError
from ..batch import ImageBatch
from ..splits import Files, ImageSplits


def channels_of(split: ImageBatch | Files) -> int:
    """Return the number of channels with which the images of a split are read."""
    return split.channels if isinstance(split, Files) else split.images.shape[1]


def with_channels(source: ImageSplits, name: str, channels: int | None) -> ImageSplits:
    """Return a source's splits with so many channels; None keeps theirs.

    Images in memory become grey or RGB; files are read with the channels that the source was told.
    Raises UserError if that is not possible.
    """
    if channels is not None and channels < 1:
        raise UserError(
            f"data.channels is {channels}; expected 1 (grey), 3 (RGB) or another number above 0."
        )
    parts = {part: getattr(source, part) for part in ("train", "val", "test")}
    found = {channels_of(part) for part in parts.values() if part is not None}
    if channels is None and len(found) > 1:
        raise UserError(
            f"The images of the source '{name}' have {' and '.join(map(str, sorted(found)))}"
            " channels; expected the same number in all splits: set data.channels, or change the"
            " source in data.py."
        )
    if channels is None or found == {channels}:
        return source
    if any(isinstance(part, Files) for part in parts.values()):
        raise UserError(
            f"data.channels is {channels}, and the source '{name}' reads its files with"
            f" {min(found)}: give it a parameter `channels`, and pass it to from_entries() or"
            " folder()."
        )
    if not found | {channels} <= {1, 3}:
        raise UserError(
            f"data.channels is {channels}, and the images of the source '{name}' have {min(found)}:"
            " leave it unset, or change the source in data.py."
        )
    return replace(source, **{key: _as(part, channels) for key, part in parts.items()})


def _as(part: Any, channels: int) -> Any:
    """Return a batch of grey or RGB images as the other of the two."""
    if part is None or part.images.shape[1] == channels:
        return part
    if channels == 3:
        return part._replace(images=part.images.expand(-1, 3, -1, -1))
    return part._replace(images=_grey(part.images))


def _grey(images: Tensor) -> Tensor:
    """Return RGB images (n, 3, h, w) as grey ones (n, 1, h, w), as Pillow weights the colours."""
    n, _, height, width = images.shape
    column = images.permute(0, 2, 3, 1).reshape(n * height, width, 3).contiguous()
    grey = np.asarray(Image.fromarray(column.numpy()).convert("L"))
    return torch.from_numpy(grey.copy()).view(n, 1, height, width)
