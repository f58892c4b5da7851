"""Files with any number of channels: what is read of them, and why others are refused."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiff_written import tiff

from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.checking.inspection import (
    inspect,
)
from {{ cookiecutter.__package_name }}.engine.images.decoding import (
    decode,
)
from {{ cookiecutter.__package_name }}.engine.images.decoding.tiff import open_tiff
from {{ cookiecutter.__package_name }}.engine.images.folder import folder

PICTURES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def noise(channels: int, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Pixels of an image that is not square; the largest value of its type is among them."""
    most = np.iinfo(kind).max
    shape = (23, 37, channels)
    pixels = np.random.default_rng(seed).integers(0, most, shape, kind, endpoint=True)
    pixels[0, 0, 0] = most
    return pixels


def whole(content: bytes, channels: int, bits: int = 16) -> np.ndarray:
    """The image as it is read, not resized."""
    return decode.cropped(content, (37, 23), lambda w, h: (0, 0, w, h, False), bits, channels)


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def picture(mode: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = noise(PICTURES[mode])
    Image.fromarray(pixels.squeeze()).save(file, kind)
    return file.getvalue()


STORED = {
    "plain": {},
    "deflate": {"compressed": True},
    "differences": {"compressed": True, "differences": True},
    "channel by channel": {"planar": True},
    "differences, channel by channel": {"planar": True, "compressed": True, "differences": True},
    "tiles": {"tile": 16},
    "tiles of differences": {"tile": 16, "compressed": True, "differences": True},
    "tiles, channel by channel": {"tile": 16, "planar": True, "compressed": True},
}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("form", STORED)
def test_a_tiff_file_is_read_in_each_form_that_it_is_stored_in(form, kind):
    for channels, order, rgb in ((2, "<", False), (4, ">", True), (5, "<", True), (8, ">", False)):
        pixels = noise(channels, kind)
        expected = pixels if kind is np.uint8 else pixels >> 8
        content = tiff(pixels, order=order, rgb=rgb, **STORED[form])
        assert np.array_equal(whole(content, channels), expected), (channels, order)


COMPRESSIONS = ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("large", [False, True], ids=["TIFF", "BigTIFF"])
def test_channels_are_read_of_each_compression_without_loss(compression, large):
    file = io.BytesIO()
    Image.fromarray(noise(4)).save(file, "TIFF", compression=compression, big_tiff=large)
    found = open_tiff(file.getvalue())
    assert found.channels == 4 and found.size == (37, 23)
    assert np.array_equal(*found.parts(), noise(4))


def test_a_tiff_file_with_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23 * 37)
    assert np.array_equal(whole(tiff(noise(8), planar=True), 8), noise(8))
    with pytest.raises(decode.ImageDecodeError, match="million values: make it smaller"):
        whole(tiff(noise(8)), 8)


def test_numbers_with_a_sign_are_read_if_none_is_negative():
    signed = {258: 8, 339: 2}
    assert np.array_equal(whole(tiff(noise(5) // 2, tags=signed), 5, 8), noise(5) // 2)
    with pytest.raises(decode.ImageDecodeError, match="holds numbers from -128 to 127"):
        whole(tiff(noise(5), tags=signed), 5)


def test_a_tiff_file_with_channels_side_by_side_on_its_side_is_turned():
    pixels = noise(5)
    content = tiff(pixels, tags={0x112: 6})  # its top is on the right
    turned = decode.cropped(content, (23, 37), lambda w, h: (0, 0, w, h, False), 16, 5)
    assert np.array_equal(turned, np.rot90(pixels, -1))


def test_pages_of_a_tiff_file_are_its_channels_if_there_are_as_many(tmp_path):
    pages = [Image.fromarray(noise(1, np.uint16, i)[..., 0]) for i in range(5)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    expected = np.stack([np.asarray(page) >> 8 for page in pages], axis=2)
    assert np.array_equal(whole(file.getvalue(), 5), expected)
    assert np.array_equal(whole(file.getvalue(), 1), expected[..., :1])  # the first page


@pytest.mark.parametrize(
    "array",
    [
        noise(5),
        noise(1),
        noise(1)[..., 0],
        np.asfortranarray(noise(8, np.uint16)),
        noise(2, np.uint16).astype(">u2"),
        noise(3, np.uint16).astype(np.int64),
        noise(6) > 127,
    ],
    ids=["bytes", "grey", "without channels", "by column", "big-endian", "int64", "bool"],
)
def test_an_array_is_read_as_it_was_saved(array):
    pixels = array[..., None] if array.ndim == 2 else array
    expected = {"bool": pixels * 255, "uint8": pixels}.get(array.dtype.name)
    expected = pixels >> 8 if expected is None else expected
    assert np.array_equal(whole(npy(array), pixels.shape[2]), expected)


def test_channels_are_resized_as_pillow_resizes_colours():
    pixels = noise(3)
    box = (3, 2, 30, 20, True)
    ours = decode.cropped(npy(pixels), (8, 9), lambda *_: box)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert np.array_equal(ours, decode.cropped(file.getvalue(), (8, 9), lambda *_: box))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", PICTURES)
def test_a_picture_is_read_as_grey_rgb_or_rgba(mode, kind):
    content = picture(mode, kind)
    with Image.open(io.BytesIO(content)) as image:
        rgba = np.asarray(image.convert("RGBA")).astype(int)
        on_white = Image.alpha_composite(
            Image.new("RGBA", image.size, "white"), image.convert("RGBA")
        )
    assert np.array_equal(whole(content, 4), rgba)
    assert np.array_equal(whole(content, 3), np.asarray(on_white)[..., :3])
    assert np.array_equal(
        whole(content, 1)[..., 0], np.asarray(on_white.convert("RGB").convert("L"))
    )


def test_a_jpeg_is_read_as_grey_by_its_brightness():
    smooth = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).resize((64, 64), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=95
    )
    for size in (60, 8):  # of which one is decoded by torchvision, one by Pillow
        colours = Image.fromarray(decode.center_crop(file.getvalue(), size))
        grey = decode.center_crop(file.getvalue(), size, channels=1)
        assert grey.shape == (size, size, 1)
        assert np.abs(grey[..., 0].astype(int) - np.asarray(colours.convert("L"))).max() <= 3
    opaque = decode.center_crop(file.getvalue(), 60, channels=4)
    assert np.array_equal(opaque[..., :3], decode.center_crop(file.getvalue(), 60))
    assert (opaque[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (npy(noise(5)), "5 channels"),
        (npy(noise(4)), "4 channels"),
        (tiff(noise(8)), "8 channels"),
        (tiff(noise(5), planar=True), "5 channels"),
    ],
    ids=["array", "array of four", "TIFF", "TIFF, channel by channel"],
)
def test_channels_that_are_no_picture_are_not_read_as_one(content, found):
    for wanted in (1, 3, 6):
        with pytest.raises(decode.ImageDecodeError, match=f"^has {found}; expected {wanted}$"):
            whole(content, wanted)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.zeros(512, np.uint8)), r"shape \(512,\); expected \(height, width\), or"),
        (npy(np.zeros((2, 3, 4, 5), np.uint8)), r"shape \(2, 3, 4, 5\)"),
        (npy(np.zeros((4, 4, 0), np.uint8)), r"shape \(4, 4, 0\)"),
        (npy(np.zeros((9, 9), np.float32)), "floating point numbers: save it with 8 or 16 bits"),
        (npy(np.zeros((9, 9), complex)), "is of complex128; expected uint8 or uint16"),
        (npy(np.full((9, 9), None), allow_pickle=True), "is of object; expected uint8 or uint16"),
        (npy(np.full((9, 9, 5), -3)), "from -3 to -3: rescale"),
        (npy(noise(5))[:-1], "the end of the file is missing"),
        (npy(noise(5))[:30], "the header of its array is damaged"),
        (npy(noise(5)).replace(b"shape", b"shap\n"), "the header of its array is damaged"),
        (tiff(noise(5)).replace(struct.pack("<HH", 273, 4), b"????"), "strips or tiles is missing"),
        (tiff(noise(5).astype(np.float32)), "floating point numbers: save it with 8 or 16 bits"),
        (tiff(noise(5), tags={273: 10**6, 278: 23, 279: 500}), "the end of the file is missing"),
        (tiff(noise(5), tags={259: 7}), "5 channels compressed as JPEG: save it with LZW"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(content, reason, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(decode.ImageDecodeError, match=reason):
        whole(content, 5)
    assert "channels; expected" not in (inspect(tmp_path / "file").problem or "channels; expected")


def test_a_header_that_promises_more_than_the_file_holds_takes_no_memory():
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 5)}
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(decode.ImageDecodeError, match="over 50 megapixels"):
        decode.check_pixels(file.getvalue(), 50_000_000)
    with pytest.raises(decode.ImageDecodeError, match="end of the file is missing"):
        whole(file.getvalue(), 5)


def write_classes(root: Path, write) -> Path:
    """Two classes of six images, written by write(path, seed)."""
    for number, name in enumerate(("one", "other")):
        (root / name).mkdir(parents=True)
        for i in range(6):
            write(root / name / f"{i}", 10 * number + i)
    return root


def bands(channels: int, kind: type = np.uint8):
    def write(path: Path, seed: int) -> None:
        path.with_suffix(".tif").write_bytes(tiff(noise(channels, kind, seed)))

    return write


def test_a_wrong_setting_of_the_channels_is_one_line(tmp_path):
    root = str(write_classes(tmp_path, bands(5)))
    with pytest.raises(UserError) as error:
        folder(root)
    assert "\n" not in str(error.value)
    assert "have 5 channels, such as" in str(error.value)
    assert str(error.value).endswith("data.channels is 3: set --data.channels 5.")


def test_a_file_with_other_channels_than_the_rest_is_named_or_left_out(tmp_path):
    root = write_classes(tmp_path, bands(5))
    bands(6)(root / "one" / "six", 99)
    np.save(root / "other" / "turned.npy", np.moveaxis(noise(5, seed=98), 2, 0))
    with pytest.raises(UserError) as error:
        folder(str(root), channels=5)
    assert "2 of 14 images can't be used" in str(error.value)
    assert "six.tif has 6 channels, and data.channels is 5: convert it" in str(error.value)
    assert "turned.npy has 37 channels in the last dimension" in str(error.value)
    splits = folder(str(root), channels=5, skip_bad=True, val_share=0.25)
    assert sum(splits.rows.values()) == 12 and splits.train.channels == 5


def test_the_bits_of_all_channels_count(tmp_path):
    def write(path: Path, seed: int) -> None:
        pixels = noise(5, np.uint16, seed) >> 8
        pixels[..., 4] <<= 4  # up to 12 bits
        np.save(path.with_suffix(".npy"), pixels)

    splits = folder(str(write_classes(tmp_path, write)), channels=5, val_share=0.25)
    assert splits.train.bits == 12 and "they are read as 12 bits" in splits.remarks[0]


def test_images_that_lose_channels_or_get_an_opaque_one_are_named(tmp_path):
    def rgb_and_two(path: Path, seed: int) -> None:
        path.with_suffix(".tif").write_bytes(tiff(noise(5, seed=seed), rgb=True))

    root = str(write_classes(tmp_path / "five", rgb_and_two))
    told = folder(root, val_share=0.25).remarks
    assert len(told) == 1 and told[0].startswith(
        "12 images have 5 channels, and data.channels is 3"
    )
    assert folder(root, val_share=0.25, channels=5).remarks == ()

    def opaque(path: Path, seed: int) -> None:
        mode = "RGBA" if seed < 10 else "RGB"
        Image.fromarray(noise(PICTURES[mode], seed=seed)).save(path.with_suffix(".png"))

    root = str(write_classes(tmp_path / "four", opaque))
    told = folder(root, val_share=0.25, channels=4).remarks
    assert len(told) == 1 and told[0].startswith("6 images have no alpha channel")


def test_pages_that_are_read_as_channels_need_no_note(tmp_path):
    def write(path: Path, seed: int) -> None:
        pages = [Image.fromarray(noise(1, seed=50 * seed + i)[..., 0]) for i in range(4)]
        pages[0].save(path.with_suffix(".tif"), save_all=True, append_images=pages[1:])

    root = str(write_classes(tmp_path, write))
    assert folder(root, val_share=0.25, channels=4).remarks == ()
    assert "several pages" in folder(root, val_share=0.25).remarks[0]


def test_a_bit_is_black_or_white():
    pixels = noise(5)[:, :32] > 127
    packed = np.packbits(pixels.reshape(23, -1), axis=1).reshape(23, 4, 5)
    content = tiff(packed, tags={256: 32, 258: 1})
    shown = decode.cropped(content, (32, 23), lambda w, h: (0, 0, w, h, False), 16, 5)
    assert np.array_equal(shown, pixels * 255)
