"""JPEG files damaged in the middle: named, though libjpeg only mutters without a name."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from {{ cookiecutter.__package_name }}.engine.images.checking import (
    file_check,
    inspection,
)
from {{ cookiecutter.__package_name }}.engine.images.checking.inspection import (
    Inspected,
    inspect,
    inspect_all,
)
from {{ cookiecutter.__package_name }}.engine.images.decoding import (
    jpeg_messages,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.listing import (
    ImageEntry,
    listing_of,
)


def noisy(seed: int, **how) -> bytes:
    """A JPEG with much to decode."""
    file, size = io.BytesIO(), (120, 160, 3)
    noise = np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=90, **how)
    return file.getvalue()


def overwritten(content: bytes, share: float, count: int, by: bytes = b"\0") -> bytes:
    """Overwrite a stretch at a share of the file's length."""
    first = int(len(content) * share)
    return content[:first] + (by * count)[:count] + content[first + count :]


WHOLE = noisy(1)
MIDDLE = len(WHOLE) // 2
DAMAGED = {
    "zeros": overwritten(WHOLE, 0.5, 900),
    "bytes of one kind": overwritten(WHOLE, 0.5, 700, b"\x55"),
    "near the start": overwritten(WHOLE, 0.1, 512),
    "near the end": overwritten(WHOLE, 0.9, 700),
    "a sector of another file": overwritten(WHOLE, 0.5, 512, noisy(2)[900:1412]),
    "a stretch is missing": WHOLE[:MIDDLE] + WHOLE[MIDDLE + 1200 :],
    "an end in the middle": WHOLE[:MIDDLE] + b"\xff\xd9" + WHOLE[MIDDLE:],
    "cut, with an end": WHOLE[:MIDDLE] + b"\xff\xd9",
    "zeros to the end": WHOLE[:MIDDLE] + bytes(len(WHOLE) - MIDDLE),
    "an erased end": WHOLE[:MIDDLE] + b"\xff" * 4000,
    "a text": overwritten(WHOLE, 0.4, 2000, b"404 not found "),
    "progressive": overwritten(noisy(1, progressive=True), 0.5, 1500),
    "grey": overwritten(noisy(1, subsampling="4:2:0"), 0.3, 900),
    "restart markers": overwritten(noisy(1, restart_marker_rows=1), 0.5, 3000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_jpeg_that_is_damaged_in_the_middle_is_refused(name, tmp_path, capfd):
    (tmp_path / "bad.jpg").write_bytes(DAMAGED[name])
    assert (inspect(tmp_path / "bad.jpg").problem or "").startswith("is damaged: ")
    assert capfd.readouterr().err == ""  # nothing without a name


def camera_file(content: bytes) -> bytes:
    """A JPEG followed by a film, as phones write it."""
    return content + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 2


def test_kinds_that_pillow_decodes_are_not_refused_unless_damaged(tmp_path):
    print_colours = Image.open(io.BytesIO(WHOLE)).convert("CMYK")
    print_colours.save(tmp_path / "print.jpg", quality=90)
    two = Image.open(io.BytesIO(WHOLE))
    two.save(tmp_path / "two.mpo", save_all=True, append_images=[two.copy()], quality=90)
    (tmp_path / "phone.jpg").write_bytes(camera_file(WHOLE))
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        assert inspect(path).problem is None
        path.write_bytes(overwritten(content, 0.25, 900))
        assert (inspect(path).problem or "").startswith("is damaged: "), path.name


HARMLESS = {
    "zeros after the end": WHOLE + bytes(30),
    "filling before the end": WHOLE[:-2] + bytes(3) + WHOLE[-2:],
    "a wrong number in a header": WHOLE.replace(b"\x11\0\x3f\0", b"\x11\0\x3e\0", 1),
    "a comment": WHOLE[:2] + b"\xff\xfe\0\x05abc" + WHOLE[2:],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_small_faults_of_the_format_refuse_no_image(name, tmp_path):
    (tmp_path / "whole.jpg").write_bytes(HARMLESS[name])
    seen = inspect(tmp_path / "whole.jpg")
    assert seen.problem is None
    assert bool(seen.note) == ("wrong number" in name)


def test_among_many_that_are_checked_at_once_the_right_ones_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths, bad = [tmp_path / f"{i}.jpg" for i in range(60)], {7, 8, 31, 59}
    for i, path in enumerate(paths):
        content = noisy(i)
        path.write_bytes(overwritten(content, 0.5, 900) if i in bad else content)
    for _ in range(2):  # the second time from the cache
        listing = listing_of((ImageEntry(path, "any", None) for path in paths), tmp_path)
        checked = file_check.check(listing, tmp_path)
        found = [checked.verdicts[number] for number in checked.found]
        assert {i for i, seen in enumerate(found) if seen.problem} == bad
    with jpeg_messages.heard(), ThreadPoolExecutor(8) as threads:
        found = list(threads.map(inspect, paths))
    assert {i for i, seen in enumerate(found) if seen.problem} == bad


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


FRAME = WHOLE.index(b"\xff\xc0")
ODD = {
    "a short JFIF segment": segment(0xE0, b"JFIF\0\1"),
    "a short Adobe segment": segment(0xEE, b"Adobe\0"),
    "several images, damaged": segment(0xE2, b"MPF\0II*\0"),
    "damaged EXIF": segment(0xE1, b"Exif\0\0II*\0\xff\xff"),
    "a damaged colour profile": segment(0xE2, b"ICC_PROFILE\0"),
    "a length of zero": b"\xff\xfe\0\0",
    "filling": b"\xff\xff\xff",
    "junk": b"junk",
    "a length beyond the end": b"\xff\xe5\xff\xff",
    "arithmetic coding": segment(0xCC, b"\0\0"),
    "a second frame": WHOLE[FRAME : FRAME + 19],
}
CHANGED = {
    **DAMAGED,
    **HARMLESS,
    **{name: WHOLE[:2] + part + WHOLE[2:] for name, part in ODD.items()},
    "12 bits": WHOLE[: FRAME + 4] + b"\x0c" + WHOLE[FRAME + 5 :],
    "no height": WHOLE[: FRAME + 5] + b"\0\0" + WHOLE[FRAME + 7 :],
    "too many pixels": WHOLE[: FRAME + 5] + b"\xff" * 4 + WHOLE[FRAME + 9 :],
    "four channels": WHOLE[: FRAME + 9] + b"\x04" + WHOLE[FRAME + 10 :],
    "no pixels": WHOLE[:FRAME] + WHOLE[-2:],
}


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
def test_all_is_found_that_is_found_file_by_file(tmp_path):
    random = np.random.default_rng(5)
    changed = dict(CHANGED, whole=WHOLE, camera=camera_file(WHOLE), empty=b"", text=b"no image")
    for number in range(150):  # one byte of the header
        at, by = random.integers(2, 640), random.bytes(1)
        changed[f"byte {number}"] = WHOLE[:at] + by + WHOLE[at + 1 :]
    for name, content in changed.items():
        (tmp_path / name).write_bytes(content)
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "missing"]
    with jpeg_messages.heard():
        together = inspect_all(paths)
    assert len(set(seen._replace(sha256="") for seen in together)) > 20
    for path, seen in zip(paths, together, strict=True):
        assert seen == inspect(path), path.name


def test_pillow_does_not_open_jpegs_of_the_usual_kind(tmp_path, monkeypatch):
    usual = {
        "whole": WHOLE,
        "progressive": noisy(4, progressive=True),
        "with metadata": noisy(5, exif=Image.Exif(), comment="mine", icc_profile=bytes(200)),
    }
    for name, content in usual.items():
        (tmp_path / name).write_bytes(content)
    grey = Image.open(io.BytesIO(WHOLE)).convert("L")
    grey.save(tmp_path / "grey", "JPEG")
    monkeypatch.setattr(inspection, "opened", lambda content: pytest.fail("opened"))
    with jpeg_messages.heard():
        found = inspect_all(sorted(tmp_path.iterdir()))
    assert [seen._replace(sha256="") for seen in found] == [
        Inspected("", channels=1),
        *[Inspected("")] * 3,
    ]


HEARD = """
import os, sys, warnings
from {package}.engine.images.decoding import jpeg_messages
with jpeg_messages.heard():
    os.write(2, b"Corrupt JPEG data: nobody knows which\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"from C\\n")
os.write(2, b"after\\n")
"""


def test_what_others_write_to_stderr_is_not_lost():
    package = jpeg_messages.__name__.split(".")[0]
    code = HEARD.replace("{package}", package)
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True
    )
    assert done.stderr.splitlines() == ["from Python", "from C", "after"]
    code = "import os; os.close(2)\n" + code  # as a daemon has it
    code = code.replace("os.write(2,", "len(")
    code = code.replace("len( b", "len(b").replace('print("from Python", file=sys.stderr)', "")
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ))
    assert done.returncode == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_small_faults_are_noted_once_with_their_files_and_never_without(
    workers, call, tmp_path, capfd
):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            content = noisy(10 * len(name) + i + (name == "dog") * 500)
            file = tmp_path / "images" / name / f"{i}.jpg"
            faulty = content.replace(b"\x11\0\x3f\0", b"\x11\0\x3e\0", 1)
            file.write_bytes(faulty if i == 3 else content)
    flags = ("--config", "configs/imagefolder.yaml", "--data.batch_size=4", "--data.image_size=32")
    flags += ("--data.options.path", str(tmp_path / "images"), "--trainer.max_epochs=2")
    flags += ("--model.network=small_cnn", f"--data.workers={workers}")
    assert call("fit", *flags, folder=tmp_path / "run") == 0
    seen = capfd.readouterr()
    assert "2 images have small faults" in seen.out and "3.jpg" in seen.out
    assert "SOS" not in seen.err
    assert call("test", "--run", str(tmp_path / "run")) == 0
    assert "SOS" not in capfd.readouterr().err
