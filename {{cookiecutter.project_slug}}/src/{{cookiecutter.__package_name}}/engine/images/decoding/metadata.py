"""The parts of JPEG and PNG files: leaving out damaged metadata, and finding a missing end."""

from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
FILLING = 16  # bytes
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks that pixels depend on


def without_metadata(content: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG or PNG file without metadata, and its EXIF block; other files as they are."""
    exif, kept = b"", list[bytes]()
    if content.startswith(b"\xff\xd8"):
        for marker, part in _segments(content):
            if marker == 0xE1 and part[4:8] == b"Exif":
                exif = part[4:]
            # APP1 to APP13, and comments; APP14 says what the colours are
            if not (0xE1 <= marker <= 0xED or marker == 0xFE):
                kept.append(part)
    elif content.startswith(PNG):
        kept.append(PNG)
        for kind, part in _chunks(content):
            if kind == b"eXIf":
                exif = part[8:-4]
            if kind in PIXELS:
                kept.append(part)
    return b"".join(kept) or content, exif


def ends_in_filling(content: bytes) -> bool:
    """Return whether a JPEG has no end, but equal bytes there, as an incomplete copy has."""
    if len(set(content[-FILLING:])) > 1:
        return False
    *_, (_, pixels) = _segments(content)
    return b"\xff\xd9" not in pixels


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the markers of a JPEG with their segments; the last one holds all of the pixels."""
    yield 0xD8, content[:2]
    at = 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"\xda", b""):
        end = at + 2 + max(int.from_bytes(content[at + 2 : at + 4], "big"), 2)
        yield content[at + 1], content[at:end]
        at = end
    yield 0xDA, content[at:]


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG)
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], content[at:end]
        at = end
