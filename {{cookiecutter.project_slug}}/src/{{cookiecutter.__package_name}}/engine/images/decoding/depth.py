"""Images of 16 bits a channel: how many of these bits a data set uses, and the way to 8 bits.

Cameras and microscopes store 10, 12 or 14 bits in 16. No file says so, but the largest value of
all images does. The same number of bits is used in training, evaluation and the service.
"""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_png

DEPTHS = (8, 10, 12, 14, 16)
FRACTIONS = "holds floating point numbers: save it with 8 or 16 bits"


class DepthError(Exception):
    """Pixels that 8 bits can't show; the message is the reason."""


def depth_of(peaks: Iterable[int]) -> int:
    """Return the number of bits that hold the largest values of all 16-bit images; 16 if none."""
    largest = max(peaks, default=0)
    return next(bits for bits in DEPTHS if largest < 2**bits) if largest else 16


def too_dark(peak: int, bits: int) -> str | None:
    """Return why an image is refused whose largest value is `peak`, or None if it isn't."""
    if not 0 < peak < 2 ** (bits - 4):
        return None
    return f"has 16 bits and no value above {peak}, nearly black: rescale its values"


def peak_of(image: Image.Image, content: bytes) -> int:
    """Return the largest value of a 16-bit image, or 0 if it has 8 bits. Raises DepthError.

    Pillow keeps only the upper 8 bits of colours; the lower ones then count as set.
    """
    if image.mode.startswith("I"):
        return int(_grey(image).max())
    if not _deep_colours(image, content):
        return 0
    top = np.asarray(image)[..., :3].max()
    return int(top) << 8 | 255


def in_eight_bits(image: Image.Image, content: bytes, bits: int) -> Image.Image:
    """Return an image whose channels have 8 bits; `bits` are those used of 16.

    Raises DepthError if the image is nearly black with these bits, or has no whole numbers.
    """
    if image.mode.startswith("I"):
        return Image.fromarray(as_eight_bits(_grey(image), bits))
    if image.mode == "F":
        raise DepthError(FRACTIONS)
    if bits == 16 or not _deep_colours(image, content):
        return image
    if image.format != "PNG":
        return Image.fromarray(_shifted(np.asarray(image).astype(np.int64) << 8, bits))
    pixels = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    deep = pixels.to(torch.int64).permute(1, 2, 0).numpy()
    return Image.fromarray(_shifted(deep, bits))


def as_eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return integers as uint8; `bits` are those used of 16. 8-bit values stay as they are.

    Raises DepthError if all are nearly black with these bits, or some need more than 16.
    """
    if values.dtype == np.uint8:
        return values
    if problem := too_dark(largest_of(values), bits):
        raise DepthError(problem)
    return _shifted(values, bits)


def largest_of(values: np.ndarray) -> int:
    """Return the largest of some integers. Raises DepthError if 16 bits can't hold them."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise DepthError(f"holds numbers from {least} to {most}: rescale them to 0 to 65535")
    return most


def _grey(image: Image.Image) -> np.ndarray:
    """Return the values of a 16-bit grey image, int64 (h, w). Raises DepthError."""
    grey = np.asarray(image).astype(np.int64)
    largest_of(grey)
    declared = image.tag_v2.get(258) if image.format == "TIFF" else None  # type: ignore[attr-defined]
    return grey << 4 if declared in (12, (12,)) else grey


def _shifted(values: np.ndarray, bits: int) -> np.ndarray:
    return (values >> (bits - 8)).clip(0, 255).astype(np.uint8)


def _deep_colours(image: Image.Image, content: bytes) -> bool:
    """Return whether the file has 16 bits a colour, of which Pillow gives the upper 8."""
    if image.format == "PNG":
        return content[24:25] == b"\x10" and image.mode in ("RGB", "RGBA", "LA")
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX"):
        return 16 in np.atleast_1d(image.tag_v2.get(258, 8))  # type: ignore[attr-defined]
    return False
