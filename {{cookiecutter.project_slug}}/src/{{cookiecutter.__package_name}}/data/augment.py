"""Batched augmentation on the device: uint8 in, uint8 out, every parameter drawn per sample.

The whole batch and the uniforms of its samples (see order.py) go in, so that the pictures a network
sees depend on (seed, epoch, index) alone.
"""

import torch
from torch import Tensor

DRAWS = 3  # uniforms per sample: vertical shift, horizontal shift, flip


def augment(images: Tensor, draws: Tensor, crop_padding: int = 0, flip: bool = False) -> Tensor:
    """Shift each image by up to `crop_padding` pixels, filling with black, and mirror half of them.

    Args:
        images: uint8 tensor (n, 3, height, width).
        draws: float32 tensor (n, DRAWS) in [0, 1), one row per image.
        crop_padding: the largest shift in pixels, as in a random crop of the padded image.
        flip: whether an image is mirrored left to right with probability one half.

    Returns:
        uint8 tensor of the same shape, channels last in memory.
    """
    if not crop_padding and not flip:
        return images
    n, _, height, width = images.shape
    shift = (draws[:, :2] * (2 * crop_padding + 1)).long() - crop_padding
    rows = torch.arange(height, device=images.device) + shift[:, :1]
    columns = torch.arange(width, device=images.device) + shift[:, 1:]
    inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
    if flip:
        mirrored = draws[:, 2:3] < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    sample = torch.arange(n, device=images.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    picked = images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
    return (picked * inside[..., None]).permute(0, 3, 1, 2)


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)
