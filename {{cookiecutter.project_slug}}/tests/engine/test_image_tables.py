"""Tables of images as people's programs write them: read as they were meant, or with a line."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.folder import folder

LABELS = ("Müller", "Façade")


def picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pool(tmp_path) -> Path:
    """A folder with twelve images, pool/0.png and so on."""
    for i in range(12):
        picture(tmp_path / "pool" / f"{i}.png", i)
    return tmp_path


def text_of(
    separator: str = ",", column: str = "", values=("train", "val", "test"), first=""
) -> str:
    """A table of the pool: two labels in turn, and the splits in turn."""
    lines = [separator.join(["path", "label", *([column] if column else [])])]
    for i in range(12):
        split = [values[i // 2 % len(values)]] if column else []
        lines.append(separator.join([f"pool/{i}.png", LABELS[i % 2], *split]))
    return "\n".join([*([first] if first else []), *lines, ""])


def read(pool: Path, content: bytes, name: str = "table.csv"):
    (pool / name).write_bytes(content)
    return folder(str(pool / name), val_share=0.2, test_share=0.2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_is_read_in_each_encoding_with_each_separator(encoding, separator, pool):
    splits = read(pool, text_of(separator, "split").encode(encoding))
    assert splits.classes == tuple(sorted(LABELS))
    assert list(splits.rows.values()) == [4, 4, 4]
    told = [remark for remark in splits.remarks if "not UTF-8" in remark]
    assert len(told) == (encoding == "cp1252") and all("'Müller'" in line for line in told)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_and_a_line_of_excel_are_read(encoding, pool):
    splits = read(pool, text_of(";", "split", first="sep=;").encode(encoding))
    assert splits.classes == tuple(sorted(LABELS)) and splits.rows["train"] == 4


def test_a_table_may_be_called_tsv_and_end_lines_as_windows_does(pool):
    splits = read(pool, text_of("\t", "split").replace("\n", "\r\n").encode(), "table.tsv")
    assert list(splits.rows.values()) == [4, 4, 4] and not splits.remarks


@pytest.mark.parametrize(
    "column",
    ["partition", "phase", "fold", "set", "subset", "usage", " Split ", "data_type", "where"],
)
def test_the_column_of_the_split_is_known_by_its_name_or_its_values(column, pool):
    splits = read(pool, text_of(column=column).encode())
    assert list(splits.rows.values()) == [4, 4, 4] and not splits.remarks


@pytest.mark.parametrize(
    "values",
    [
        ("Train", "Valid", "Test"),
        ("TRAINING", "VALIDATION", "TESTING"),
        ("training", "dev", "holdout"),
        ("train", "val", "hold-out"),
        ("train_set", "val_set", "test_set"),
        ("Training", "PublicTest", "PrivateTest"),
    ],
)
def test_splits_have_their_usual_names(values, pool):
    splits = read(pool, text_of(column="split", values=values).encode())
    assert list(splits.rows.values()) == [4, 4, 4]


def test_what_the_table_says_of_no_split_is_said(pool):
    splits = read(pool, text_of(column="fold", values=("0", "1", "2")).encode())
    assert "columns not used: 'fold'; the table gives no split" in splits.remarks[0]
    splits = read(pool, text_of(column="split", values=("train", "test", "")).encode())
    assert "4 of 12 images have no split: they are taken for train" in splits.remarks
    assert "no validation split is given: 20% of train is used for it" in splits.remarks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,phase\na.png,x,train\nb.png,x,later\n", "line 3: the phase is 'later'"),
        (
            "path,label,split,set\na,x,train,train\nb,x,test,val\n",
            "'set', 'split' all give a split",
        ),
        ("path,label\na.png,a cat, black\n", "line 2: 3 cells; expected 2. Put quotes"),
        ("file;class\na.png;x\n", r"begins with the line 'file;class'; expected path,label"),
        ("path,label\na.png," + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
        ("path,label,split\na.png,x,eval\n", "line 2: the split is 'eval'; expected train"),
    ],
)
def test_a_table_that_can_be_read_in_two_ways_is_refused(text, message, pool):
    with pytest.raises(UserError, match=message):
        read(pool, text.encode())


def test_a_damaged_utf_16_table_is_refused(pool):
    with pytest.raises(UserError, match=r"table\.csv can't be read as utf-16.*Save it as UTF-8"):
        read(pool, text_of().encode("utf-16") + b"\0")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_files_are_found_in_either_unicode_form(form, on_disk, tmp_path):
    lines = ["path,label"]
    for i in range(12):
        name = f"Größe é/ü {i}.png"
        picture(tmp_path / unicodedata.normalize(on_disk, name), i)
        label = unicodedata.normalize(("NFC", "NFD")[i % 2], f"é{i // 6}")
        lines.append(f"{unicodedata.normalize(form, name)},{label}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    splits = folder(str(tmp_path / "table.csv"), val_share=0.2)
    assert sum(splits.rows.values()) == 12
    assert splits.classes == ("\xe90", "\xe91")  # one class each, composed


def test_names_are_found_with_backslashes_and_as_bytes_of_another_encoding(pool):
    (pool / "pool/0.png").rename(pool / "pool" / os.fsdecode(b"\xfcber.png"))
    picture(pool / "pool/Ä.png", 1)
    text = text_of().replace("/", "\\").replace("0.png", "über.png", 1).replace("1.png", "Ä.png", 1)
    assert sum(read(pool, text.encode("cp1252")).rows.values()) == 12
    assert sum(read(pool, text.encode()).rows.values()) == 12
