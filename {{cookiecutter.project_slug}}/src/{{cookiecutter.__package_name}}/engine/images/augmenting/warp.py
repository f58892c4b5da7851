"""Affine warps. Each output pixel is the nearest input pixel, or 0 outside of the image."""

import math

import torch
from torch import Tensor


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images of the same shape, channels last in memory.

    `images` are uint8 (n, c, h, w). `matrices`, float32 (n, 2, 3), map output coordinates (x, y, 1)
    to input coordinates (x, y), both in pixels from the center of the image.
    """
    n, _, height, width = images.shape
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    of_x, of_y, shift = matrices[..., None, None].unbind(2)
    source = of_x * x + of_y * y + shift  # (n, 2, h, w)
    columns = (source[:, 0] + (width - 1) / 2).round().long()
    rows = (source[:, 1] + (height - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    sample = torch.arange(n, device=images.device)[:, None, None]
    row, column = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    picked = images.permute(0, 2, 3, 1)[sample, row, column]
    return (picked * inside[..., None]).permute(0, 3, 1, 2)


def rotations(degrees: Tensor) -> Tensor:
    """Return the matrices (n, 2, 3) that turn images counterclockwise by `degrees` (n,)."""
    # In float64, whose error in the last place never changes the float32 that remains: libraries
    # compute the cosine of a number a little differently, depending on its place in the tensor.
    angles = degrees.double() * (math.pi / 180)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3).float()
