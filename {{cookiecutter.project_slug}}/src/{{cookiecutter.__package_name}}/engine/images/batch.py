"""The batch of an image network.

In all files of this folder: n rows, c channels, h by w pixels. Pixels are uint8 (n, c, h, w) with
channels last in memory, the layout that decoders write and GPUs prefer.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .arrays import as_labels, as_pixels


class ImageBatch(NamedTuple):
    """Images with their labels.

    `images` is uint8 (n, c, h, w). `labels` is int64 (n,); float32 (n, labels), 1 or 0, if an image
    may have several; float32 (n,) if they are numbers; None in a request to the service.
    `row` is int64 (n,), the image's index in its split, or -1 for padding. If images are mixed,
    `mixed_labels` are the other image's, and `mix_weights` float32 (n,) the weight
    of the image's own.
    """

    images: Tensor
    labels: Tensor
    row: Tensor
    mixed_labels: Tensor | None = None
    mix_weights: Tensor | None = None


def in_memory(pixels: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> ImageBatch:
    """Return one split of images: `pixels` uint8 (n, h, w, c), 0 to 255, `labels` integers (n,).

    `labels` may also be floats (n,), numbers to learn, or (n, labels), 1 where an image has one.
    Raises UserError if pixels or labels are anything else, or not as many.
    """
    pixels, labels = as_pixels(pixels), as_labels(labels)
    if len(pixels) != len(labels):
        raise UserError(
            f"in_memory(): there are pixels of {len(pixels)} images and labels of {len(labels)};"
            " expected one label for each image: select both with the same index."
        )
    return ImageBatch(pixels.permute(0, 3, 1, 2), labels, torch.arange(len(labels)))
