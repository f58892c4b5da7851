"""What is found out about an image file when it is first checked."""

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from ..hashing import sha256_of
from . import jpeg_messages
from .decode import ImageDecodeError, as_rgb, is_common_jpeg, opened
from .depth import peak_of
from .metadata import ends_in_filling
from .orientation import orientation_of

FAULTS = "small faults, by what libjpeg says: look at them; they are used"
PAGES = "several pages, frames or layers, of which only the first is used"


class Inspected(NamedTuple):
    """What a file is.

    `problem` is why it can't be used as an image, or None. `note` is what its owner should know,
    or None: "3 images have " comes before it. `peak` is the largest value if it has 16 bits, else
    0: see depth.py.
    """

    sha256: str
    problem: str | None = None
    note: str | None = None
    peak: int = 0


def inspect(path: Path) -> Inspected:
    """Read and decode a whole file, because a truncated JPEG has a valid header."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Inspected("", f"can't be read: {error.strerror}")
    sha256 = sha256_of([content])
    try:
        with opened(content) as (image, _):
            said = _said_by_libjpeg(image, content)
            if jpeg_messages.means_damage(said):
                return Inspected(sha256, f"is damaged: {said}")
            if image.format == "JPEG" and ends_in_filling(content):
                return Inspected(sha256, "is damaged: its end is missing, copied incompletely")
            if is_common_jpeg(image, content):
                return Inspected(sha256, None, FAULTS if said else None)
            image.draft("RGB", (1, 1))  # decodes a JPEG at its smallest scale: fastest
            orientation = orientation_of(image)
            image.load()
            peak = peak_of(image, content)
            if not peak:
                as_rgb(image, content, orientation, 16)
            return Inspected(sha256, None, PAGES if _frames(image) > 1 else None, peak)
    except ImageDecodeError as reason:
        return Inspected(sha256, str(reason))


def _said_by_libjpeg(image: Image.Image, content: bytes) -> str:
    """Return what libjpeg says while it decodes a JPEG. Pillow's own doesn't say it.

    Brightness is enough: to decode it, libjpeg reads all of the data. Raises RuntimeError if a
    JPEG can't be decoded that is decoded so later.
    """
    if image.format not in ("JPEG", "MPO"):
        return ""
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    grey = image.mode in ("L", "RGB")
    mode = ImageReadMode.GRAY if grey else ImageReadMode.UNCHANGED
    decoded_later = is_common_jpeg(image, content)
    with nullcontext() if decoded_later else suppress(RuntimeError):
        return jpeg_messages.said_while(lambda: decode_jpeg(data, mode))
    return ""


def _frames(image: Image.Image) -> int:
    """Return the number of pages, frames or layers; 1 if it can't be found out."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later page is damaged: the first one may be whole
        return 1
