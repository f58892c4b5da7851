"""The mean and standard deviation of each channel of the training images."""

from typing import Any

import torch
from torch import Tensor

from ..data.rows import as_rows

MOST = 256  # images that are measured: enough for a mean


def measure(split: Any) -> tuple[Tensor, Tensor, int]:
    """Return mean and standard deviation of each channel, float32 (c,), and how many images.

    The images are spread over a split, and are those that an evaluation would show. A channel that
    hardly varies gets a deviation of 1, so that it stays finite.
    """
    rows = as_rows(split)
    index = torch.arange(0, rows.n, max(-(-rows.n // MOST), 1))
    batch = rows.take(index, None, None)
    images = batch.images[batch.row >= 0].double()  # the others are left out: see left_out.py
    mean, deviation = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
    return mean.float(), deviation.clamp(min=1).float(), len(images)


def normalize_by(layer: Any, trainer: Any) -> str:
    """Set a layer's buffers `mean` and `std` (1, c, 1, 1) to those of the training images.

    Returns a line that says so, or "" if the Trainer has a plain DataLoader, not ImageData.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "splits"):
        return ""
    mean, deviation, n = measure(data.splits.train)
    layer.mean.copy_(mean.view(1, -1, 1, 1))
    layer.std.copy_(deviation.view(1, -1, 1, 1))
    means, deviations = (
        " ".join(f"{v:.1f}" for v in values.tolist()) for values in (mean, deviation)
    )
    return f"normalization: mean {means}, deviation {deviations} of {n} training images"
