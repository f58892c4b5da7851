"""JPEG files of the usual kind, whose header says all that is recorded of an image.

Pillow reads more of a header, in ten times as long. All that it would refuse, or read as another
format, counts as another kind here, and so does all that is rare.
"""

import struct

START, END = b"\xff\xd8\xff", b"\xff\xd9"
FRAMES = (0xFFC0, 0xFFC1, 0xFFC2)  # Huffman-coded: baseline, extended, progressive
SCAN = 0xFFDA
TABLES = {0xFFC4, 0xFFDB, 0xFFDD}  # libjpeg checks them
APPLICATIONS = range(0xFFE0, 0xFFF0)
COMMENT = 0xFFFE
SHORTEST = 14  # bytes of a whole segment APP0 (JFIF) and APP14 (Adobe)
SEVERAL_IMAGES = b"MPF\0"  # in APP2

_segment = struct.Struct(">HH").unpack_from  # marker, length without the marker
_frame = struct.Struct(">BHHB").unpack_from  # bits, height, width, channels


def channels_in(content: bytes, most_pixels: float) -> int | None:
    """Return the channels of a JPEG of the usual kind, 1 or 3, or None for any other file.

    It has 8 bits, at most so many pixels, and ends with an end marker. What follows the header has
    not been decoded.
    """
    if not content.startswith(START) or not content.endswith(END):
        return None
    channels, at = None, 2
    try:
        while True:
            marker, length = _segment(content, at)
            if marker == SCAN:
                return channels
            if marker in FRAMES:
                bits, height, width, channels = _frame(content, at + 4)
                if bits != 8 or channels not in (1, 3) or not 0 < height * width <= most_pixels:
                    return None
            elif not _is_neutral(marker, length, content, at):
                return None
            at += 2 + length
    except struct.error:  # no scan before the end
        return None


def _is_neutral(marker: int, length: int, content: bytes, at: int) -> bool:
    """Return whether a segment changes nothing of what is recorded."""
    if length < 2:
        return False
    if marker in (0xFFE0, 0xFFEE):
        return length >= SHORTEST
    if marker == 0xFFE2:
        return not content.startswith(SEVERAL_IMAGES, at + 4)
    return marker in TABLES or marker in APPLICATIONS or marker == COMMENT
