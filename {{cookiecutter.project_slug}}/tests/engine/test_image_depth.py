"""Images of 16 bits: as bright as the bits that they use say, wherever they are read."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.checking.inspection import (
    inspect,
)
from {{ cookiecutter.__package_name }}.engine.images.decoding import (
    decode,
)
from {{ cookiecutter.__package_name }}.engine.images.folder import folder
from {{ cookiecutter.__package_name }}.engine.images.read import read
from {{ cookiecutter.__package_name }}.engine.run.resume_checks import check_data


def sixteen(path: Path, share: np.ndarray, most: int) -> None:
    Image.fromarray((share * most).astype(np.uint16)).save(path)


def write_sixteen(root: Path, most: int, suffix: str = "png") -> Path:
    """Two classes of 16-bit images, dark and bright, of which the largest value is `most`."""
    for number, (name, level) in enumerate({"dark": 0.3, "bright": 0.7}.items()):
        (root / name).mkdir(parents=True)
        for i in range(4):
            share = np.random.default_rng(10 * number + i).normal(level, 0.01, (12, 12))
            share[0, 0] = 1
            sixteen(root / name / f"{i}.{suffix}", share, most)
    return root


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_images_are_as_bright_as_their_bits_say(bits, suffix, tmp_path):
    splits = folder(str(write_sixteen(tmp_path / "images", 2**bits - 1, suffix)), val_share=0.25)
    assert splits.train.bits == bits and splits.test.bits == bits
    for path in (tmp_path / "images/bright").iterdir():
        shown = decode.center_crop(path, 8, splits.train.bits)
        assert abs(shown[4:, 4:].mean() - 0.7 * 255) < 4
    told = [remark for remark in splits.remarks if "16 bits" in remark]
    assert len(told) == (bits < 16)
    assert bits == 16 or f"no value above {2**bits - 1}: they are read as {bits} bits" in told[0]


def test_the_bits_can_be_given_and_must_hold_every_value(tmp_path):
    root = str(write_sixteen(tmp_path / "images", 4095))
    splits = folder(root, val_share=0.25, bits=14)
    assert splits.train.bits == 14 and "read as 14 bits" in splits.remarks[0]
    for bits in (8, 11, 17):
        with pytest.raises(UserError, match=rf"bits is {bits}.* is 4095; expected 12 to 16"):
            folder(root, bits=bits)


def test_the_service_reads_16_bits_as_training_did(tmp_path):
    sixteen(tmp_path / "a.png", np.full((9, 9), 0.5), 4095)
    extra = {"from_files": True, "bits": 12}
    facts = Facts("folder", {}, "", shapes={"images": (3, 8, 8)}, extra=extra)
    batch, problems = read([(tmp_path / "a.png").read_bytes()], facts)
    assert not problems and abs(batch.images.float().mean() - 127) < 1
    facts.extra["bits"] = 16
    batch, problems = read([(tmp_path / "a.png").read_bytes()], facts)
    assert "nearly black" in problems[0]


def test_an_evaluation_on_other_data_says_how_their_bits_are_read(tmp_path, capsys):
    was = Facts("folder", {}, "then")
    found = Facts("folder", {}, "now", remarks=("8 images are read as 12 bits",))
    check_data(was, found, resuming=False)
    assert "note: 8 images are read as 12 bits" in capsys.readouterr().out


def png_of_colours(pixels: np.ndarray) -> bytes:
    """A PNG file of 16 bits a colour, which Pillow can't write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + check
    return content


def test_colours_of_16_bits_are_scaled_too(tmp_path):
    content = png_of_colours(np.full((9, 9, 3), 8000))
    (tmp_path / "deep.png").write_bytes(content)
    assert inspect(tmp_path / "deep.png").peak == (8000 >> 8) << 8 | 255
    assert decode.center_crop(content, 8, bits=14).mean() == 8000 >> 6
    assert decode.center_crop(content, 8).mean() == 8000 >> 8


def test_an_image_that_is_nearly_black_beside_the_others_is_named(tmp_path):
    root = write_sixteen(tmp_path, 65535)
    sixteen(root / "dark" / "black.png", np.full((9, 9), 1.0), 255)
    with pytest.raises(UserError, match=r"black\.png has 16 bits and no value above 255, nearly"):
        folder(str(root))


def test_numbers_that_16_bits_cannot_hold_are_refused(tmp_path):
    Image.fromarray(np.full((9, 9), 70000, np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(np.full((9, 9), -5, np.int32)).save(tmp_path / "b.tif")
    assert "from 70000 to 70000: rescale" in (inspect(tmp_path / "a.tif").problem or "")
    assert "from -5 to -5: rescale" in (inspect(tmp_path / "b.tif").problem or "")
