"""The batch of an image network.

In all files of this folder: n rows, c channels, h by w pixels. Pixels are uint8 (n, c, h, w) with
channels last in memory, the layout that decoders write and GPUs prefer.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """Images with their labels.

    `images` is uint8 (n, c, h, w). `labels` is int64 (n,), or None in a request to the service.
    `row` is int64 (n,), the image's index in its split, or -1 for padding. If images are mixed,
    `mixed_labels` int64 (n,) is the other image's label and `mix_weights` float32 (n,) the weight
    of the image's own label.
    """

    images: Tensor
    labels: Tensor
    row: Tensor
    mixed_labels: Tensor | None = None
    mix_weights: Tensor | None = None


def in_memory(pixels: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> ImageBatch:
    """Return one split of images: `pixels` uint8 (n, h, w, c), `labels` integers (n,)."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    images = torch.as_tensor(pixels).permute(0, 3, 1, 2)
    return ImageBatch(images, labels, torch.arange(len(labels)))
