"""Batched augmentation on the device: uint8 in, uint8 out, every parameter drawn per sample.

The whole batch and the uniforms of its samples (see order.py) go in, so that the pictures a network
sees depend on (seed, epoch, index) alone; what an image is mixed with, on its batch as well.
"""

import functools
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from .engine.data.batch import Batch


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images: see ImageData, which has these settings too."""

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def draws(self) -> int:
        """How many uniforms a sample needs: 2 to shift, 1 to flip, 2 to cut out, 5 to mix."""
        return 10 if self.mixup or self.cutmix else 5 if self.cutout else 3

    def __call__(self, batch: Batch, draws: Tensor, batch_size: int) -> Batch:
        """Return one or several batches of that size, augmented with `draws` (n, self.draws)."""
        images = shift_and_flip(batch.images, draws, self.crop_padding, self.flip)
        if self.cutout:
            images = cut_out(images, draws[:, 3:5], self.cutout)
        batch = batch._replace(images=images)
        if self.mixup or self.cutmix:
            return mix(batch, draws[:, 5:], batch_size, self.mixup, self.cutmix)
        return batch


UNCHANGED = Augmentation()


def shift_and_flip(images: Tensor, draws: Tensor, crop_padding: int, flip: bool) -> Tensor:
    """Shift each image by up to `crop_padding` pixels, filling with black; `flip` mirrors half.

    `images` are uint8 (n, 3, height, width), `draws` (n, 3 or more) in [0, 1): down, right, and
    whether it is mirrored. What is returned lies channels last in memory.
    """
    if not crop_padding and not flip:
        return images
    n, _, height, width = images.shape
    shift = (draws[:, :2] * (2 * crop_padding + 1)).long() - crop_padding
    rows = torch.arange(height, device=images.device) + shift[:, :1]
    columns = torch.arange(width, device=images.device) + shift[:, 1:]
    if flip:
        columns = torch.where(draws[:, 2:3] < 0.5, width - 1 - columns, columns)
    row, column = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    inside = (row == rows)[:, :, None, None] & (column == columns)[:, None, :, None]
    sample = torch.arange(n, device=images.device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[sample, row[:, :, None], column[:, None, :]]
    return (picked * inside).permute(0, 3, 1, 2)


def cut_out(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """Blacken a square of `side` pixels around a place in each image (DeVries and Taylor, 2017).

    `images` are uint8 (n, 3, height, width), `draws` (n, 2) in [0, 1): the square's middle, which
    may lie at the edge.
    """
    return images * ~_box(images, draws, torch.full_like(draws, side / 2))[:, None]


def mix(batch: Batch, draws: Tensor, batch_size: int, mixup: float, cutmix: float) -> Batch:
    """Mix each image with the one before it in its batch.

    By mixup it is blended with it (Zhang et al., 2017), by cutmix it shows a part of it (Yun et
    al., 2019); if both are asked for, half of the images each. `draws` (n, 5) in [0, 1) are: which,
    the image's own share, the two places of the part.

    Args:
        batch: one or several batches of `batch_size` images.
        mixup, cutmix: alpha of the distribution Beta(alpha, alpha) of the shares; 0 is off.
    """
    images = batch.images
    chance = 0.5 if mixup and cutmix else float(mixup > 0)
    blended = draws[:, 0] < chance
    shares = torch.where(blended, _beta(mixup, draws[:, 1]), _beta(cutmix, draws[:, 2]))
    half = torch.stack([(1 - shares).sqrt() * side / 2 for side in images.shape[2:]], 1)
    shown = ~_box(images, draws[:, 3:], half)
    own = torch.where(blended[:, None, None], shares[:, None, None], shown)
    before = _before(images, batch_size)
    mixed = images * own[:, None] + before * (1 - own[:, None])
    return batch._replace(
        images=mixed.round().to(torch.uint8),
        others=_before(batch.labels, batch_size),
        shares=own.mean((1, 2)),
    )


def _box(images: Tensor, middle: Tensor, half: Tensor) -> Tensor:
    """Return where a box covers its image: bool (n, height, width).

    `middle` (n, 2) is a share of height and width, `half` (n, 2) half of the box in pixels.
    """
    covered = [
        ((torch.arange(length, device=images.device) + 0.5) - middle[:, i : i + 1] * length).abs()
        < half[:, i : i + 1]
        for i, length in enumerate(images.shape[2:])
    ]
    return covered[0][:, :, None] & covered[1][:, None, :]


def _before(values: Tensor, batch_size: int) -> Tensor:
    """Return for every sample that of the one before it in its batch, for the first the last."""
    return values.unflatten(0, (-1, batch_size)).roll(1, 1).flatten(0, 1)


def _beta(alpha: float, uniform: Tensor) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at these uniforms, in 1,024 steps."""
    return _quantiles(alpha or 1.0, uniform.device)[(uniform * 1024).long()]


@functools.lru_cache
def _quantiles(alpha: float, device: torch.device) -> Tensor:
    steps = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
    return torch.from_numpy(betaincinv(alpha, alpha, steps.numpy())).float().to(device)
