"""Folders as NAS, macOS, Windows and people leave them: what is an image, a class, a split."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.finding.kinds import (
    EXTENSIONS,
    UNSURE,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.names import split_of
from {{ cookiecutter.__package_name }}.engine.images.folder import folder


def picture(path: Path, seed: int, **how) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def classes(root: Path, *names: str, each: int = 4, seed: int = 0) -> Path:
    for number, name in enumerate(names):
        for i in range(each):
            picture(root / name / f"{i}.png", seed + 100 * number + i)
    return root


def total(root: Path, **options) -> int:
    return sum(folder(str(root), **{"val_share": 0.25} | options).rows.values())


SIDE = (
    "@eaDir", "#recycle", "#snapshot", "@Recycle", "__MACOSX", "$RECYCLE.BIN", "lost+found",
    "System Volume Information", ".AppleDouble", ".Trash-1000", "@__thumb", "Temporary Items",
)  # fmt: skip
SIDE_FILES = ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "ehthumbs.db", "Icon\r")


@pytest.mark.parametrize("name", SIDE)
def test_folders_of_the_system_are_neither_classes_nor_read(name, tmp_path):
    root = classes(tmp_path / "images", "cat", "dog")
    for place in (root, root / "cat", root / "dog"):
        picture(place / name / "0.png" / "thumbnail.png", 999)
    splits = folder(str(root), val_share=0.25)
    assert splits.classes == ("cat", "dog") and sum(splits.rows.values()) == 8
    told = ["3 folders of the system ignored:"] if name[0] != "." else []
    assert [remark.partition(f" {root}")[0] for remark in splits.remarks] == told


def test_files_of_the_system_need_no_word(tmp_path):
    root = classes(tmp_path / "images", "cat", "dog")
    for place in (root, root / "cat"):
        for name in SIDE_FILES:
            (place / name).write_bytes(b"?")
    splits = folder(str(root), val_share=0.25)
    assert sum(splits.rows.values()) == 8 and not splits.remarks


def test_what_pillow_opens_is_read():
    Image.init()
    other = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FPX", "MIC", "PDF", "PALM"}
    opened = {ext for ext, form in Image.registered_extensions().items() if form not in other}
    assert opened - {".spi"} <= EXTENSIONS | UNSURE


WRITTEN = "pgm pbm ppm pnm jp2 tga pcx ico dds sgi qoi JPG rgb im avif jpe apng dib"


@pytest.mark.parametrize("extension", WRITTEN.split())
def test_every_extension_is_read(extension, tmp_path):
    for number, name in enumerate(("cat", "dog")):
        for i in range(4):
            noise = np.random.default_rng(10 * number + i).integers(0, 255, (16, 16, 3))
            image = Image.fromarray(noise.astype(np.uint8))
            (tmp_path / name).mkdir(exist_ok=True)
            image = image.convert({"pbm": "1", "pgm": "L"}.get(extension, "RGB"))
            kind = {"rgb": "SGI", "jpe": "JPEG", "apng": "PNG", "dib": "DIB"}.get(extension)
            image.save(tmp_path / name / f"{i}.{extension}", kind)
    assert total(tmp_path) == 8


def test_what_is_passed_over_is_counted_by_extension(tmp_path):
    root = classes(tmp_path, "cat", "dog")
    for name in ("a.heic", "b.HEIC", "c.rgb", "README"):
        (root / "cat" / name).write_text("no image")
    (line,) = folder(str(root), val_share=0.25).remarks
    assert (
        line.startswith("4 files ignored by place or extension (2 .heic, 1 ") and "a.heic" in line
    )
    shutil.rmtree(root / "dog")
    (root / "dog").mkdir()
    (root / "dog" / "x.heic").touch()
    with pytest.raises(UserError, match=r"dog: a class's folder without an image.*\n.*3 \.heic"):
        folder(str(root))


def test_links_are_followed_once_and_never_in_circles(tmp_path):
    root, store = classes(tmp_path / "images", "cat", "dog"), tmp_path / "store"
    classes(store, "more", "inner/more", seed=1000)
    (root / "cat" / "more").symlink_to(store / "more")  # 4 images
    (root / "cat" / "again").symlink_to(store / "more")
    (root / "cat" / "file.png").symlink_to(root / "cat" / "0.png")
    picture(tmp_path / "one.png", 5000)
    (root / "cat" / "one.png").symlink_to(tmp_path / "one.png")  # 1 image
    (root / "cat" / "one too.png").symlink_to(tmp_path / "one.png")
    (root / "dog" / "up").symlink_to("..")
    (root / "dog" / "self").symlink_to(root / "dog")
    (root / "dog" / "top").symlink_to("/")
    (root / "dog" / "inner").symlink_to(store / "inner")  # 4 images
    (store / "inner" / "back").symlink_to(store / "inner")
    (root / "dog" / "circle").symlink_to("circle")
    (root / "bird").symlink_to(classes(tmp_path / "else", "bird", seed=3000) / "bird")  # 4 images
    splits = folder(str(root), val_share=0.25)
    assert splits.classes == ("bird", "cat", "dog") and sum(splits.rows.values()) == 8 + 13
    (line,) = [remark for remark in splits.remarks if "links ignored" in remark]
    assert line.startswith("7 links ignored")
    assert any("circle" in remark for remark in splits.remarks)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(classes(tmp_path, "cat", "dog") / "cat" / "pipe.png")
    assert total(tmp_path) == 8


def test_one_class_in_both_unicode_forms_is_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    classes(tmp_path / "train", composed, "Bar")
    classes(tmp_path / "val", apart, "Bar", seed=1000)
    splits = folder(str(tmp_path))
    assert splits.classes == ("Bar", composed) and list(splits.rows.values()) == [8, 8, 0]


def test_a_class_whose_name_is_not_utf_8_has_a_name_that_can_be_shown(tmp_path):
    classes(tmp_path, "cat", "dog")
    (tmp_path / "dog").rename(tmp_path / os.fsdecode(b"M\xfcller"))
    assert folder(str(tmp_path), val_share=0.25).classes == ("Müller", "cat")


@pytest.mark.parametrize("names", [("bus", "train"), ("bus", "train", "test"), ("Dev", "ops")])
def test_a_class_may_have_the_name_of_a_split(names, tmp_path):
    splits = folder(str(classes(tmp_path, *names)), val_share=0.25)
    assert splits.classes == tuple(sorted(names))
    assert "taken for classes, not for splits" in splits.remarks[0]


def test_splits_without_classes_are_no_classes(tmp_path):
    classes(tmp_path, "train", "test")
    with pytest.raises(UserError, match=r"no folders of classes in .*Expected test/<class>"):
        folder(str(tmp_path))
    (tmp_path / "labels").mkdir()  # without an image
    with pytest.raises(UserError, match="no folders of classes in"):
        folder(str(tmp_path))


def test_classes_beside_the_splits_are_named(tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    classes(tmp_path, "bus", seed=1000)
    remarks = folder(str(tmp_path), val_share=0.25).remarks
    assert any("taken for splits; not used beside them: " in line for line in remarks)
    assert any("bus" in line for line in remarks)


@pytest.mark.parametrize("place", ["test", "test/unknown", "Testing/images"])
def test_test_images_without_labels_are_counted_and_not_used(place, tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    classes(tmp_path, place, each=7, seed=1000)
    splits = folder(str(tmp_path), val_share=0.25)
    assert list(splits.rows.values()) == [6, 2, 0]
    assert any("7 images" in line and "without labels" in line for line in splits.remarks)


def test_evaluation_says_why_there_is_no_test_split(tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    classes(tmp_path, "test", each=7, seed=1000)
    data = ImageData(source="folder", options={"path": str(tmp_path)}, batch_size=2)
    with pytest.raises(UserError, match=r"no test split to evaluate.*test holds 7 images, but"):
        data.test_dataloader()


def test_skip_bad_never_takes_a_class_away_without_a_word(tmp_path):
    root = classes(tmp_path, "cat", "dog", "owl")
    for path in (root / "owl").iterdir():
        path.write_text("404 not found")
    with pytest.raises(UserError, match=r"4 of 12 images can't be used.*'owl'(.*\n)+.*owl/0\.png"):
        folder(str(root), skip_bad=True)
    for path in root.rglob("*.png"):
        path.write_text(f"404 {path}")
    with pytest.raises(UserError, match=r"12 of 12 images can't be used.*'cat', 'dog', 'owl'"):
        folder(str(root), skip_bad=True)


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("TRAINING", "train"), ("train-set", "train"), ("training_data", "train"),
     ("valid", "val"), ("Dev", "val"), ("validation", "val"), ("holdout", "test"), ("Test", "test"),
     ("hold out", "test"), ("tests", None), ("trainee", None), ("set", None), ("", None),
     ("contest", None), ("value", None)],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split
