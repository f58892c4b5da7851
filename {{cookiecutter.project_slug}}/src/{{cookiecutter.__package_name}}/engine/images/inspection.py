"""What is found out about an image file when it is first checked."""

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from ..hashing import sha256_of
from . import jpeg_messages
from .decode import ImageDecodeError, as_rgb, is_common_jpeg, opened
from .depth import peak_of
from .orientation import orientation_of

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
            if is_common_jpeg(image, content):
                return _jpeg(content, sha256)
            image.draft("RGB", (1, 1))  # decodes a JPEG at its smallest scale: fastest
            orientation = orientation_of(image)
            image.load()
            peak = peak_of(image, content)
            if not peak:
                as_rgb(image, content, orientation, 16)
            return Inspected(sha256, None, PAGES if _frames(image) > 1 else None, peak)
    except ImageDecodeError as reason:
        return Inspected(sha256, str(reason))


def _jpeg(content: bytes, sha256: str) -> Inspected:
    """Decode a JPEG's brightness, by which libjpeg notices damage as it does in colour."""
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    said = jpeg_messages.said_while(lambda: decode_jpeg(data, ImageReadMode.GRAY))
    if jpeg_messages.means_damage(said):
        return Inspected(sha256, f"is damaged: {said}")
    return Inspected(sha256, None, f"small faults of the file format ({said})" if said else None)


def _frames(image: Image.Image) -> int:
    """Return the number of pages, frames or layers; 1 if it can't be found out."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later page is damaged: the first one may be whole
        return 1
