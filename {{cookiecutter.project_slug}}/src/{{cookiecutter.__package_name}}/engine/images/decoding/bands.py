"""Images with any number of channels: NumPy's .npy files, and TIFF files that are no picture.

Their channels are read as they are stored. Pillow reads everything else: see decode.py.
"""

import io
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from .boxes import Box, Size
from .depth import FRACTIONS, DepthError, as_eight_bits, largest_of
from .tiff import Tiff, open_tiff

NPY = b"\x93NUMPY"
GREY = ("L", "I;16", "I;16B", "I;16L", "I")
MOST_IN_PILLOW = 6  # channels of a TIFF file: it logs an error if there are more
ALSO_BANDS = (*GREY, "RGB", "RGBX")  # without alpha or other colours, channels mean what they are


class Bands(NamedTuple):
    """An image whose channels can be read one by one.

    `parts` yields integers (height, width, some channels). `picture` says that Pillow reads the
    file too, as grey or RGB.
    """

    width: int
    height: int
    channels: int
    picture: bool
    parts: Callable[[], Iterator[np.ndarray]]

    def used_for(self, channels: int | None) -> bool:
        """Return whether to read these channels, not the picture, where so many are wanted."""
        return not self.picture or (channels == self.channels and channels not in (1, 3))

    def peak(self) -> int:
        """Return the largest value if there are more than 8 bits, else 0. Raises DepthError."""
        parts = (part for part in self.parts() if part.dtype != np.uint8)
        return max((largest_of(part) for part in parts), default=0)

    def cropped(self, size: Size, box: Box, bits: int, channels: int) -> np.ndarray:
        """Crop a box and resize it to `size`, as Pillow does: uint8 (height, width, channels).

        One channel is repeated if three are wanted, and three are read as RGB if grey is wanted.
        Raises DepthError for values that 8 bits can't show.
        """
        pixels = as_eight_bits(np.concatenate(list(self.parts()), axis=2), bits)
        if (self.channels, channels) == (3, 1):
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        left, upper, right, lower, mirrored = box
        planes = []
        for i in range(pixels.shape[2]):
            whole = Image.fromarray(np.ascontiguousarray(pixels[..., i]))
            plane = whole.resize(size, Image.Resampling.BILINEAR, (left, upper, right, lower))
            planes.append(np.asarray(ImageOps.mirror(plane) if mirrored else plane))
        return np.stack(planes * (channels // len(planes)), axis=2)


def find_bands(content: bytes, channels: int | None = None) -> Bands | None:
    """Return the channels of a .npy or TIFF file, or None if it is a picture, or another file.

    If the number of channels that are wanted is given, files that are read as a picture then are
    pictures. Raises ValueError for a .npy file that holds no image, DepthError if it has fractions.
    """
    if content.startswith(NPY):
        return _of_array(content)
    tiff = open_tiff(content)
    if tiff is None or (tiff.channels == 1 and (not tiff.has_more_pages or channels in (1, 3))):
        return None
    if tiff.channels == 1:
        return _of_pages(content)
    mode = _mode(content, tiff)
    if (mode and mode not in ALSO_BANDS) or (mode == "RGB" and tiff.channels == 3):
        return None
    return Bands(*tiff.size, tiff.channels, bool(mode), tiff.parts)


def _of_array(content: bytes) -> Bands:
    """Return the array in a .npy file. Only its header is read."""
    shape, by_column, kind, start = _header(content)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"its array has the shape {shape}; expected (height, width), or (height, width,"
            " channels)"
        )
    if kind.kind == "f":
        raise DepthError(FRACTIONS)
    if kind.kind not in "bui":
        raise ValueError(f"its array is of {kind}; expected uint8 or uint16")

    def parts() -> Iterator[np.ndarray]:
        if len(content) - start < math.prod(shape) * kind.itemsize:
            raise ValueError("the end of the file is missing")
        values = np.frombuffer(content, kind, math.prod(shape), start)
        pixels = values.reshape(shape, order="F" if by_column else "C")
        pixels = pixels.astype(kind.newbyteorder("="))
        pixels = pixels * np.uint8(255) if kind.kind == "b" else pixels
        yield pixels[..., None] if pixels.ndim == 2 else pixels

    return Bands(shape[1], shape[0], shape[2] if len(shape) == 3 else 1, False, parts)


def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return an array's shape, whether it is stored by column, its type and its start."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        return *read(stream), stream.tell()
    except Exception:  # NumPy raises exceptions of many types, with the header in them
        raise ValueError("the header of its array is damaged") from None


def _of_pages(content: bytes) -> Bands | None:
    """Return the channels of a TIFF file that has a page for each, or None if it isn't such."""
    with Image.open(io.BytesIO(content)) as image:
        pages: int = getattr(image, "n_frames", 1)
        kinds = set()
        for page in range(pages):
            image.seek(page)
            kinds.add((image.mode, image.size))
        if len(kinds) > 1 or image.mode not in GREY:
            return None
        size = image.size

    def parts() -> Iterator[np.ndarray]:
        with Image.open(io.BytesIO(content)) as image:
            for page in range(pages):
                image.seek(page)
                yield np.asarray(image)[..., None]

    return Bands(*size, pages, True, parts)


def _mode(content: bytes, tiff: Tiff) -> str:
    """Return the mode in which Pillow reads a TIFF file's channels, or "" if it can't.

    If they are stored one after another, it shows the first of several grey ones, and confuses the
    bytes of 16 bits.
    """
    if tiff.channels > MOST_IN_PILLOW or (tiff.is_planar and tiff.has_16_bits):
        return ""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return "" if image.mode in GREY and tiff.channels > 2 else image.mode
    except Image.DecompressionBombError:
        raise
    except Exception:  # decoders raise exceptions of many types
        return ""
