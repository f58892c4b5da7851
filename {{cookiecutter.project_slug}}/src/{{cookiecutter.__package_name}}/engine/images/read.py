"""Reading the image files that the service is sent, as evaluation would show them."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..contract import Facts
from .batch import ImageBatch
from .decoding.boxes import Size, center_box, largest_box
from .decoding.decode import (
    File,
    ImageDecodeError,
    check_pixels,
    cropped,
    cropped_or_jpeg,
)
from .decoding.packed import pack

MAX_PIXELS = 50_000_000  # of one image: 150 MB as RGB


def read(requests: list, facts: Facts) -> tuple[ImageBatch, dict[int, str]]:
    """Return the images of files, given as bytes or paths, and why the others can't be used.

    A network trained on files gets the center crop, decoded by the GPU if training used it. A
    network trained on images in memory gets the largest centered part with their aspect ratio,
    resized to their shape: all of an image that has this shape already.
    """
    shape = facts.shapes["images"]
    images, problems = [], dict[int, str]()
    for i, file in enumerate(requests):
        try:
            images.append(_pixels(file, (shape[2], shape[1]), shape[0], facts.extra))
        except ImageDecodeError as reason:
            problems[i] = str(reason)
    pixels = torch.from_numpy(np.stack(images)) if images else torch.empty(0, *shape[1:], shape[0])
    labels: Any = None
    row = torch.arange(len(images))
    return ImageBatch(pixels.permute(0, 3, 1, 2), labels, row), problems


def _pixels(file: Any, size: Size, channels: int, extra: dict[str, Any]) -> np.ndarray:
    """Return one image, uint8 (h, w, channels). Raises ImageDecodeError."""
    if not isinstance(file, (bytes, Path)):
        raise ImageDecodeError("is not an image file: send the bytes of one")
    check_pixels(file, MAX_PIXELS)
    bits = extra.get("bits", 16)
    if not extra["from_files"]:
        return cropped(file, size, partial(largest_box, size=size), channels=channels)
    streamed = extra.get("loader", "streaming") == "streaming"
    by_gpu = streamed and extra.get("decoder") == "gpu" and torch.cuda.is_available()
    if by_gpu and channels == 3:
        return _decoded_by_gpu(file, size, bits)
    return cropped(file, size, partial(center_box, size=size), bits, channels)


def _decoded_by_gpu(file: File, size: Size, bits: int) -> np.ndarray:
    from .decoding.gpu_decode import decode

    image = cropped_or_jpeg(file, size, partial(center_box, size=size), bits)
    buffer = np.empty(len(image[0]) if isinstance(image, tuple) else 0, np.uint8)
    images = torch.zeros(1, size[1], size[0], 3, dtype=torch.uint8, device="cuda")
    decode(torch.from_numpy(buffer), pack([image], buffer, size), images)
    return images[0].cpu().numpy()
