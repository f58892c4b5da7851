"""What a network for images is given.

In all files: n rows, c channels, h and w pixels. Pixels are uint8, (n, c, h, w) with the channels
last in memory, as cameras store them and GPUs prefer them.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """Images with their labels.

    `images` uint8 (n, c, h, w); `labels` int64 (n,), None in a request; `row` int64
    (n,), the image's place in its split, -1 where it only fills up the batch. Where an image is
    mixed with another, `mixed_labels` int64 (n,) are the other's and `mix_weights` float32 (n,) its
    own share.
    """

    images: Tensor
    labels: Tensor
    row: Tensor
    mixed_labels: Tensor | None = None
    mix_weights: Tensor | None = None


def in_memory(pixels: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> ImageBatch:
    """Return one split of images: `pixels` uint8 (n, h, w, c), `labels` whole numbers (n,)."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    images = torch.as_tensor(pixels).permute(0, 3, 1, 2)
    return ImageBatch(images, labels, torch.arange(len(labels)))
