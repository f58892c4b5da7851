"""Which way up an image is shown: orientation in EXIF of any type, in XMP, and in broken blocks."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from {{ cookiecutter.__package_name }}.engine.images.checking.inspection import (
    PAGES,
    inspect,
)
from {{ cookiecutter.__package_name }}.engine.images.decoding import (
    boxes,
    decode,
)

SIDE = 32


def corner(seed: int = 0) -> np.ndarray:
    """Grey with a white upper left corner: every way of turning it shows."""
    pixels = np.random.default_rng(seed).integers(60, 80, (SIDE, SIDE, 3)).astype(np.uint8)
    pixels[: SIDE // 2, : SIDE // 2] = 250
    return pixels


def stored(orientation: int) -> Image.Image:
    """The pixels of `corner` as a camera stores them with this orientation."""
    turned = Image.fromarray(corner())
    backwards = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return turned if backwards is None else turned.transpose(backwards)


def is_upright(content: bytes) -> bool:
    pixels = decode.center_crop(content, 8).astype(int)
    return bool(pixels[:3, :3].min() > 200 and pixels[5:].max() < 120 and pixels[:, 5:].max() < 120)


def exif(*entries: tuple[int, int, int, bytes], order: str = ">", rest: bytes = b"") -> bytes:
    """An EXIF block of entries: tag, type, count, and four bytes."""
    head = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(order + "I", 8)
    rows = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries)) + rows + bytes(4) + rest


def jpeg(image: Image.Image, *segments: bytes) -> bytes:
    """A JPEG with these APP1 segments."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    content = file.getvalue()
    parts = [b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part for part in segments]
    return content[:2] + b"".join(parts) + content[2:]


def xmp(text: str) -> bytes:
    return b"http://ns.adobe.com/xap/1.0/\0" + text.encode()


SIX = 6  # shown after a quarter turn clockwise
FORMS = {
    "short": exif((0x112, 3, 1, b"\0\6\0\0")),
    "short, Intel": exif((0x112, 3, 1, b"\6\0\0\0"), order="<"),
    "long": exif((0x112, 4, 1, b"\0\0\0\6")),
    "long, Intel": exif((0x112, 4, 1, b"\6\0\0\0"), order="<"),
    "byte": exif((0x112, 1, 1, b"\6\0\0\0")),
    "signed short": exif((0x112, 8, 1, b"\0\6\0\0")),
    "signed long": exif((0x112, 9, 1, b"\0\0\0\6")),
    "text": exif((0x112, 2, 2, b"6\0\0\0")),
    "undefined": exif((0x112, 7, 1, b"\6\0\0\0")),
    "fraction": exif(
        (0x112, 5, 1, b"\0\0\0\x26"), (0x128, 3, 1, b"\0\2\0\0"), rest=b"\0\0\0\x0c\0\0\0\2"
    ),
    "two shorts": exif((0x112, 3, 2, b"\0\6\0\6")),
    "float": exif((0x112, 11, 1, struct.pack(">f", 6.0))),
    "an unknown type before it": exif((0x100, 99, 7, b"\1\2\3\4"), (0x112, 3, 1, b"\0\6\0\0")),
    "an entry that points nowhere": exif(
        (0x10F, 2, 900, b"\xff\xff\xff\0"), (0x112, 3, 1, b"\0\6\0\0")
    ),
    "cut short after it": exif((0x112, 3, 1, b"\0\6\0\0"), (0x128, 3, 1, b"\0\2\0\0"))[:-14],
    "Exif twice": b"Exif\0\0" + exif((0x112, 3, 1, b"\0\6\0\0")),
    "dates as fractions": exif((0x112, 3, 1, b"\0\6\0\0"), (0x132, 10, 1, b"\0\0\0\x08")),
    "resolution of zero": exif(
        (0x112, 3, 1, b"\0\6\0\0"), (0x11A, 5, 1, bytes(4)), (0x128, 3, 1, b"\0\2\0\0")
    ),
    "XMP attribute": xmp('<rdf:Description tiff:Orientation="6"/>'),
    "XMP in single quotes": xmp("<rdf:Description tiff:Orientation = '6'/>"),
    "XMP element": xmp("<tiff:Orientation>6</tiff:Orientation>"),
    "XMP element with spaces": xmp("<tiff:Orientation>\n 6 </tiff:Orientation>"),
    "XMP with a prefix of its own": xmp(
        '<x xmlns:ns3="http://ns.adobe.com/tiff/1.0/"><y ns3:Orientation="6"/></x>'
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_orientation_is_found_in_each_form_that_it_is_stored_in(name, tmp_path):
    content = jpeg(stored(SIX), FORMS[name])
    assert is_upright(content)
    (tmp_path / "turned.jpg").write_bytes(content)
    assert inspect(tmp_path / "turned.jpg")[1:4] == (None, None, 0)
    assert isinstance(decode.cropped_or_jpeg(content, (8, 8), boxes.center_box), np.ndarray)


UPRIGHT = {
    "orientation 0": exif((0x112, 3, 1, bytes(4))),
    "orientation 9": exif((0x112, 3, 1, b"\0\x09\0\0")),
    "a fraction of nothing": exif((0x112, 5, 1, b"\0\0\0\x26"), rest=bytes(40)),
    "no TIFF header": b"Exif\0\0????????" + bytes(40),
    "an empty block": b"Exif\0\0",
    "a directory beyond the end": b"Exif\0\0MM\0*\x7f\xff\xff\xff",
    "65,535 entries": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(30),
    "a circle of directories": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08",
    "upright in EXIF, turned in XMP": exif((0x112, 3, 1, b"\0\1\0\0")),
    "XMP of a scene": xmp('<x:SceneOrientation>6</x:SceneOrientation> Iptc:Orientation="6"'),
    "XMP cut short": xmp('<rdf:Description tiff:Orientation="'),
}


@pytest.mark.parametrize("name", UPRIGHT)
def test_a_damaged_or_empty_block_leaves_whole_pixels_as_they_are(name, tmp_path):
    more = [xmp('tiff:Orientation="6"')] if "turned in XMP" in name else []
    content = jpeg(stored(1), UPRIGHT[name], *more)
    assert is_upright(content)
    (tmp_path / "image.jpg").write_bytes(content)
    assert inspect(tmp_path / "image.jpg").problem is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "mpo"])
def test_every_orientation_of_every_format_is_turned(orientation, kind, tmp_path):
    tags = Image.Exif()
    tags[0x112] = orientation
    path = tmp_path / f"image.{kind}"
    stored(orientation).save(path, exif=tags)
    assert is_upright(path.read_bytes())


def test_a_turned_tiff_that_is_not_square_is_cropped_from_its_middle(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # the middle third is white
    sideways, tags = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    tags[0x112] = SIX
    for kind in ("tif", "png"):
        sideways.save(tmp_path / f"image.{kind}", exif=tags)
        assert decode.center_crop(tmp_path / f"image.{kind}", 8).min() > 250


def test_turning_a_jpeg_gives_the_bits_that_torchvision_gives():
    noise = np.random.default_rng(3).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    for orientation in range(1, 9):
        tag = exif((0x112, 3, 1, struct.pack(">HH", orientation, 0)))
        content = jpeg(Image.fromarray(noise), tag)
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        whole = decode_jpeg(data, ImageReadMode.RGB, apply_exif_orientation=True)
        size = (whole.shape[2], whole.shape[1])
        ours = decode.cropped(content, size, lambda w, h: (0, 0, w, h, False))
        assert np.array_equal(ours, whole.permute(1, 2, 0).numpy())


def test_a_png_whose_metadata_are_damaged_is_read(tmp_path):
    path = tmp_path / "image.png"
    tags = Image.Exif()
    tags[0x112] = SIX
    stored(SIX).save(path, exif=tags)
    content = bytearray(path.read_bytes())
    at = content.index(b"eXIf")
    (length,) = struct.unpack_from(">I", content, at - 4)
    content[at + 4 + length] ^= 0xFF  # its checksum
    assert is_upright(bytes(content))


PAGED = {
    "scan.tif": {"append_images": [stored(2)]},
    "film.gif": {"append_images": [stored(2), stored(3)]},
    "film.png": {"append_images": [stored(2)]},
    "film.webp": {"append_images": [stored(2)]},
    "camera.mpo": {"append_images": [stored(2)]},
}


@pytest.mark.parametrize("name", PAGED)
def test_an_image_of_several_pages_is_noted(name, tmp_path):
    stored(1).save(tmp_path / name, save_all=True, **PAGED[name])
    stored(1).save(tmp_path / f"single.{name.split('.')[1]}")
    assert inspect(tmp_path / name)[1:3] == (None, PAGES)
    assert inspect(tmp_path / f"single.{name.split('.')[1]}")[1:3] == (None, None)
    assert is_upright((tmp_path / name).read_bytes())  # the first one
