"""TIFF files with any number of channels, which Pillow can't write."""

import struct
import zlib

import numpy as np

ROWS = 5  # in a strip
LONG = {256, 257, 273, 278, 279, 322, 323, 324, 325}


def tiff(
    pixels: np.ndarray,
    *,
    compressed: bool = False,
    differences: bool = False,
    planar: bool = False,
    order: str = "<",
    tile: int | None = None,
    rgb: bool = False,
    extra: int = 0,
    tags: dict[int, int] | None = None,
) -> bytes:
    """Return a file with `pixels`, (height, width, channels) of uint8, uint16 or float32.

    `differences` is the horizontal predictor, `extra` what the channels after grey or RGB are.
    """
    height, width, channels = pixels.shape
    planes = [pixels[..., [i]] for i in range(channels)] if planar else [pixels]
    parts = []
    for plane in planes:
        for block in _blocks(plane, tile):
            stored = np.diff(block, axis=1, prepend=block[:, :1] * 0) if differences else block
            raw = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
            parts.append(zlib.compress(raw) if compressed else raw)
    body, offsets = bytearray(8), []
    for part in parts:
        offsets.append(len(body))
        body += part + b"\0" * (len(part) % 2)
    bits = pixels.dtype.itemsize * 8
    values: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [8 if compressed else 1],
        262: [2 if rgb else 1],
        277: [channels],
        284: [2 if planar else 1],
        317: [2 if differences else 1],
        339: [3 if pixels.dtype.kind == "f" else 1] * channels,
    }
    if more := channels - (3 if rgb else 1):
        values[338] = [extra] * more
    lengths = [len(part) for part in parts]
    if tile:
        values |= {322: [tile], 323: [tile], 324: offsets, 325: lengths}
    else:
        values |= {273: offsets, 278: [ROWS], 279: lengths}
    values |= {tag: [value] for tag, value in (tags or {}).items()}
    entries = b""
    for tag, numbers in sorted(values.items()):
        kind = 4 if tag in LONG else 3
        data = struct.pack(f"{order}{len(numbers)}{'I' if kind == 4 else 'H'}", *numbers)
        if len(data) > 4:
            place = len(body)
            body += data
            data = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + data.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    body[:8] = mark + struct.pack(f"{order}HI", 42, len(body))
    return bytes(body) + struct.pack(f"{order}H", len(values)) + entries + bytes(4)


def _blocks(plane: np.ndarray, tile: int | None) -> list[np.ndarray]:
    height, width, _ = plane.shape
    if tile is None:
        return [plane[y : y + ROWS] for y in range(0, height, ROWS)]
    full = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    return [
        full[y : y + tile, x : x + tile]
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]
