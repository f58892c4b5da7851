"""Which way up an image is stored, as EXIF or XMP say, and turning it upright.

EXIF is read here and not by Pillow: an entry of a wrong type, or a damaged one, must not hide the
orientation beside it. Orientations are numbered as in EXIF, 1 to 8; 1 is upright.
"""

import re
import struct
from typing import Any

from PIL import Image
from torch import Tensor

TAG = 0x112
SIDEWAYS = (5, 6, 7, 8)  # width and height change places

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FLIPPED = {2: (-1,), 3: (-2, -1), 4: (-2,), 5: (), 6: (-1,), 7: (-2, -1), 8: (-2,)}

# EXIF's types of whole and broken numbers: their struct formats
_NUMBERS = {3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
_TIFF_PREFIX = re.compile(rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/tiff/""")


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of the pixels that Pillow gives, 1 to 8.

    PNG and TIFF files are loaded: a PNG may have its EXIF after the pixels, and Pillow turns a TIFF
    whose orientation has the usual type.
    """
    if image.format == "TIFF":
        stored = image.tag_v2.get(TAG)  # type: ignore[attr-defined]
        image.load()
        given = 1 if stored in _TRANSPOSE else _valid(stored)
    else:
        if image.format == "PNG":
            image.load()
        given = _in_exif(_exif_of(image.info))
    return given or _in_xmp(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")) or 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image upright."""
    return image if orientation == 1 else image.transpose(_TRANSPOSE[orientation])


def turned_pixels(pixels: Tensor, orientation: int) -> Tensor:
    """Return pixels (…, h, w) upright: (…, w, h) if they were stored sideways."""
    if orientation == 1:
        return pixels
    pixels = pixels.transpose(-1, -2) if orientation in SIDEWAYS else pixels
    return pixels.flip(_FLIPPED[orientation]) if _FLIPPED[orientation] else pixels


def _exif_of(info: dict[Any, Any]) -> bytes:
    block = info.get("exif")
    if block is None and isinstance(profile := info.get("Raw profile type exif"), str):
        digits = "".join(profile.split("\n")[3:])  # ImageMagick's text in a PNG
        block = bytes.fromhex(digits) if re.fullmatch(r"([0-9a-fA-F]{2})+", digits) else None
    return block if isinstance(block, bytes) else b""


def _in_exif(block: bytes) -> int | None:
    """Return the orientation in an EXIF block, or None if there is no valid one."""
    block = re.sub(rb"^(Exif\0\0)+", b"", block)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", block, at)
            if tag == TAG and (value := _valid(_value(block, at + 8, order, kind, length))):
                return value
    except struct.error:  # the block is cut short
        pass
    return None


def _value(block: bytes, at: int, order: str, kind: int, length: int) -> Any:
    """Return the value of an EXIF entry, whose value or whose place is at `at`."""
    form = _NUMBERS.get(kind)
    if form is None:  # bytes or a text
        return block[at : at + 4]
    if struct.calcsize("=" + form) * length > 4:
        (at,) = struct.unpack_from(order + "I", block, at)
    return struct.unpack_from(order + form, block, at)


def _valid(value: Any) -> int | None:
    """Return a stored value as an orientation, 1 to 8, or None if it is none."""
    if isinstance(value, str):
        value = value.encode("ascii", "replace")
    if isinstance(value, bytes):
        first = value[:1]
        value = int(first) if first.isdigit() else first[0] if first else None
    if isinstance(value, tuple):
        fraction = len(value) == 2 and value[1] not in (0, 1) and value[0] % value[1] == 0
        value = value[0] // value[1] if fraction else value[0] if value else None
    try:
        return int(value) if value in range(1, 9) else None
    except (TypeError, ValueError):
        return None


def _in_xmp(packet: Any) -> int | None:
    """Return the orientation in an XMP packet, an attribute or an element, or None."""
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    if not isinstance(packet, bytes) or not packet:
        return None
    packet = packet.replace(b"\0", b"")  # a packet in UTF-16
    found = _TIFF_PREFIX.search(packet)
    prefix = re.escape(found[1] if found else b"tiff")
    pattern = prefix + rb""":Orientation\s*(?:=\s*["']|(?:\s[^<>]*)?>)\s*([1-8])\s*["'<]"""
    match = re.search(pattern, packet)
    return int(match[1]) if match else None
