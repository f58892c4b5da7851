"""TIFF files with any number of channels. Pillow reads only those that are a picture.

Pillow decodes all usual compressions, if the image has one channel. So its data are given to it as
such images: with channels side by side in each row, or one image for each channel.
"""

import io
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .depth import FRACTIONS, DepthError
from .orientation import SIDEWAYS, TAG, turned_pixels

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_LENGTHS, PLANAR = 273, 277, 278, 279, 284
PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_LENGTHS = 317, 322, 323, 324, 325
FORMAT = 339
LONG = {WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT}
LONG |= {STRIP_OFFSETS, STRIP_LENGTHS, TILE_OFFSETS, TILE_LENGTHS}

JPEG = (6, 7)  # values of COMPRESSION
SIGNED, FLOAT = 2, 3  # values of FORMAT


@dataclass(frozen=True)
class Tiff:
    """The first image of a TIFF file, upright. Only its description has been read."""

    content: bytes = field(repr=False)
    tags: ImageFileDirectory_v2

    @property
    def channels(self) -> int:
        return self._number(SAMPLES, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self._number(WIDTH, 0), self._number(HEIGHT, 0)
        return (height, width) if self.tags.get(TAG) in SIDEWAYS else (width, height)

    @property
    def has_more_pages(self) -> bool:
        return bool(self.tags.next)

    @property
    def is_planar(self) -> bool:
        """Whether the channels are stored one after another."""
        return self._number(PLANAR, 1) == 2

    @property
    def has_16_bits(self) -> bool:
        return self._number(BITS, 1) == 16

    def parts(self) -> Iterator[np.ndarray]:
        """Yield the values of all channels: integers (height, width, channels).

        Raises DepthError if they have fractions, ValueError if they can't be read, or what Pillow
        raises.
        """
        self._check()
        most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # Pillow's limit
        if math.prod(self.size) * (1 if self.is_planar else self.channels) > most:
            raise ValueError(f"over {most / 1e6:.0f} million values: make it smaller")
        offsets, lengths = self._places()
        if self.is_planar:
            each = len(offsets) // self.channels
            parts = [slice(i * each, (i + 1) * each) for i in range(self.channels)]
            planes = [self._plane(offsets[part], lengths[part], 1) for part in parts]
        else:
            planes = [self._plane(offsets, lengths, self.channels)]
        pixels = torch.from_numpy(np.concatenate(planes, axis=2)).permute(2, 0, 1)
        orientation = self._number(TAG, 1)
        upright = turned_pixels(pixels, orientation if orientation in range(1, 9) else 1)
        yield upright.permute(1, 2, 0).numpy()

    def _check(self) -> None:
        bits, formats = ({*np.atleast_1d(self.tags.get(tag, 1))} for tag in (BITS, FORMAT))
        if FLOAT in formats:
            raise DepthError(FRACTIONS)
        if len(bits) > 1 or len(formats) > 1:
            raise ValueError("its channels have different numbers of bits")
        if self._number(COMPRESSION, 1) in JPEG:
            raise ValueError(
                f"{self.channels} channels compressed as JPEG: save it with LZW or deflate"
            )

    def _plane(self, offsets: Sequence[int], lengths: Sequence[int], channels: int) -> np.ndarray:
        """Return the pixels of one channel, or of all: (height, width, channels)."""
        width, height = self._number(WIDTH, 0), self._number(HEIGHT, 0)
        predictor = self._number(PREDICTOR, 1)
        fields = {
            WIDTH: width * channels,
            HEIGHT: height,
            BITS: self._number(BITS, 1),
            COMPRESSION: self._number(COMPRESSION, 1),
            PHOTOMETRIC: 1,
            FILL_ORDER: self._number(FILL_ORDER, 1),
            SAMPLES: 1,
            PREDICTOR: predictor if channels == 1 else 1,
            FORMAT: self._number(FORMAT, 1),
        }
        tile = self._number(TILE_WIDTH, width)
        if TILE_WIDTH in self.tags:
            fields |= {TILE_WIDTH: tile * channels, TILE_HEIGHT: self._number(TILE_HEIGHT, height)}
        else:
            fields[ROWS_PER_STRIP] = min(self._number(ROWS_PER_STRIP, height), height)
        data = [self.content[a : a + n] for a, n in zip(offsets, lengths, strict=True)]
        if sum(map(len, data)) < sum(lengths):
            raise ValueError("the end of the file is missing")
        with Image.open(io.BytesIO(_file(self.content[:2], fields, data))) as image:
            pixels = np.asarray(image)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        pixels = pixels * np.uint8(255) if pixels.dtype == bool else pixels
        if fields[FORMAT] == SIGNED and fields[BITS] in (8, 16):
            pixels = pixels.astype(f"i{fields[BITS] // 8}")
        pixels = pixels.reshape(height, width, channels)
        if predictor == 2 and channels > 1:  # each value is the difference from the pixel before
            for x in range(0, width, tile):
                part = pixels[:, x : x + tile]
                part[:] = np.cumsum(part, axis=1, dtype=part.dtype)
        return pixels

    def _places(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the offsets and lengths of the strips or tiles."""
        tiled = TILE_WIDTH in self.tags
        names = (TILE_OFFSETS, TILE_LENGTHS) if tiled else (STRIP_OFFSETS, STRIP_LENGTHS)
        if not all(name in self.tags for name in names):
            raise ValueError("the list of its strips or tiles is missing")
        offsets, lengths = ([int(n) for n in np.atleast_1d(self.tags[name])] for name in names)
        return offsets, lengths

    def _number(self, tag: int, default: int) -> int:
        return int(np.atleast_1d(self.tags.get(tag, default))[0])


def open_tiff(content: bytes) -> Tiff | None:
    """Return a TIFF file's first image, or None if this is none, or its description is damaged."""
    if content[:4] not in STARTS:
        return None
    try:
        header = content[:16] if content[2:4].strip(b"\0") == b"+" else content[:8]
        tags, stream = ImageFileDirectory_v2(header), io.BytesIO(content)
        stream.seek(tags.next)
        tags.load(stream)
        found = Tiff(content, tags)
        return found if found.channels >= 1 and min(found.size) >= 1 else None
    except Exception:  # Pillow says what is wrong, and raises exceptions of many types
        return None


def _file(order: bytes, fields: dict[int, int], data: Sequence[bytes]) -> bytes:
    """Return a TIFF file of one channel with these strips or tiles."""
    end = "<" if order == b"II" else ">"
    body, offsets = bytearray(8), list[int]()
    for part in data:
        offsets.append(len(body))
        body += part + b"\0" * (len(part) % 2)
    tiled = TILE_WIDTH in fields
    names = (TILE_OFFSETS, TILE_LENGTHS) if tiled else (STRIP_OFFSETS, STRIP_LENGTHS)
    values = {tag: [value] for tag, value in fields.items()}
    values |= dict(zip(names, (offsets, [len(part) for part in data]), strict=True))
    entries = b""
    for tag, numbers in sorted(values.items()):
        kind = 4 if tag in LONG else 3
        stored = struct.pack(f"{end}{len(numbers)}{'I' if kind == 4 else 'H'}", *numbers)
        if len(stored) > 4:
            stored, at = struct.pack(f"{end}I", len(body)), stored
            body += at
        entries += struct.pack(f"{end}HHI", tag, kind, len(numbers)) + stored.ljust(4, b"\0")
    body[:8] = order + struct.pack(f"{end}HI", 42, len(body))
    return bytes(body) + struct.pack(f"{end}H", len(values)) + entries + bytes(4)
