"""What is found out about an image file when it is first checked."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from ...hashing import sha256_of
from ..decoding import jpeg_messages
from ..decoding.bands import NPY, Bands, find_bands
from ..decoding.channels import channels_of
from ..decoding.decode import ImageDecodeError, as_picture, is_common_jpeg, opened
from ..decoding.depth import peak_of
from ..decoding.metadata import ends_in_filling
from ..decoding.orientation import orientation_of
from .plain_jpeg import channels_in

FAULTS = "small faults, by what libjpeg says: look at them; they are used"
PAGES = "several pages, frames or layers, of which only the first is used"


class Inspected(NamedTuple):
    """What a file is.

    `problem` is why it can't be used as an image, or None. `note` is what its owner should know,
    or None: "3 images have " comes before it. `peak` is the largest value if it has 16 bits, else
    0: see depth.py.

    `channels` are those that it stores, each page of a TIFF file being one. `picture` is whether
    Pillow reads it as grey or RGB too. Then `peak` is that picture's, and `whole_peak` that of all
    channels. `is_array` is whether it is a .npy file.
    """

    sha256: str
    problem: str | None = None
    note: str | None = None
    peak: int = 0
    channels: int = 3
    picture: bool = True
    whole_peak: int = 0
    is_array: bool = False

    def peak_for(self, channels: int) -> int:
        """Return the largest value of the channels that are read if so many are wanted."""
        return self.peak if self.picture and channels in (1, 3) else self.whole_peak


def inspect(path: bytes | Path) -> Inspected:
    """Read and decode a whole file, because a truncated JPEG has a valid header."""
    return inspect_content(_read(path))


def inspect_all(paths: Iterable[bytes | Path]) -> list[Inspected]:
    """Return what `inspect` returns for each file. JPEGs of the usual kind take less time.

    Call it in a block of jpeg_messages.heard(); several threads may do so.
    """
    contents = [_read(path) for path in paths]
    with jpeg_messages.beside_others() as received:
        usual = [_of_usual_jpeg(content, received) for content in contents]
    return [seen or inspect_content(content) for seen, content in zip(usual, contents, strict=True)]


def _read(path: bytes | Path) -> bytes | Inspected:
    """Return a file's content, or what is recorded if it can't be read."""
    try:
        with FileIO(path) as file:
            return file.read()
    except OSError as error:
        return Inspected("", f"can't be read: {error.strerror}")


def _of_usual_jpeg(content: bytes | Inspected, received: Callable[[], int]) -> Inspected | None:
    """Return what is recorded of a JPEG of the usual kind, or None if it needs a closer look.

    `received` returns how many bytes C code has written to stderr.
    """
    if isinstance(content, Inspected):
        return content
    channels = channels_in(content, Image.MAX_IMAGE_PIXELS or math.inf)
    if channels is None:
        return None
    before = received()
    try:
        decode_jpeg(_tensor(content), ImageReadMode.GRAY)
    except RuntimeError:
        return None
    quiet = received() == before
    return Inspected(sha256_of([content]), channels=channels) if quiet else None


def inspect_content(content: bytes | Inspected) -> Inspected:
    """Return what is recorded of a file with this content."""
    if isinstance(content, Inspected):
        return content
    sha256 = sha256_of([content])
    try:
        with opened(content) as (image, _):
            if isinstance(image, Bands):
                peak = image.peak()
                is_array = content.startswith(NPY)
                return Inspected(sha256, None, None, peak, image.channels, False, peak, is_array)
            return _of_picture(sha256, image, content)
    except ImageDecodeError as reason:
        return Inspected(sha256, str(reason))


def _of_picture(sha256: str, image: Image.Image, content: bytes) -> Inspected:
    """Return what Pillow's picture is, decoded whole. Raises what Pillow raises."""
    said = _said_by_libjpeg(image, content)
    if jpeg_messages.means_damage(said):
        return Inspected(sha256, f"is damaged: {said}")
    if image.format == "JPEG" and ends_in_filling(content):
        return Inspected(sha256, "is damaged: its end is missing, copied incompletely")
    channels = channels_of(image)
    if is_common_jpeg(image, content):
        return Inspected(sha256, None, FAULTS if said else None, 0, channels)
    image.draft("RGB", (1, 1))  # decodes a JPEG at its smallest scale: fastest
    orientation = orientation_of(image)
    image.load()
    peak = peak_of(image, content)
    if not peak:
        as_picture(image, content, orientation, 16)
    note = PAGES if _frames(image) > 1 else None
    channels, whole_peak = _of_bands(content) or (channels, peak)
    return Inspected(sha256, None, note, peak, channels, True, whole_peak)


def _said_by_libjpeg(image: Image.Image, content: bytes) -> str:
    """Return what libjpeg says while it decodes a JPEG. Pillow's own doesn't say it.

    Brightness is enough: to decode it, libjpeg reads all of the data. Raises RuntimeError if a
    JPEG can't be decoded that is decoded so later.
    """
    if image.format not in ("JPEG", "MPO"):
        return ""
    data = _tensor(content)
    grey = image.mode in ("L", "RGB")
    mode = ImageReadMode.GRAY if grey else ImageReadMode.UNCHANGED
    decoded_later = is_common_jpeg(image, content)
    with nullcontext() if decoded_later else suppress(RuntimeError):
        return jpeg_messages.said_while(lambda: decode_jpeg(data, mode))
    return ""


def _tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _of_bands(content: bytes) -> tuple[int, int] | None:
    """Return the number and the largest value of the channels that are read as they are stored.

    Returns None if there are none, or they can't be read: Pillow's picture may be whole.
    """
    try:
        bands = find_bands(content)
        return (bands.channels, bands.peak()) if bands else None
    except Exception:  # decoders raise exceptions of many types
        return None


def _frames(image: Image.Image) -> int:
    """Return the number of pages, frames or layers; 1 if it can't be found out."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later page is damaged: the first one may be whole
        return 1
