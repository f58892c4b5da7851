"""Predicting new files: the same answers as an evaluation, and a table that is whole or absent."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predicted import predict_as_in_the_evaluation, rows_of

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }} import networks
from {{ cookiecutter.__package_name }}.data import digits
from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.images import decoding
from {{ cookiecutter.__package_name }}.engine.images.decoding.decode import (
    ImageDecodeError,
    cropped,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.file_paths import (
    Paths,
)
from {{ cookiecutter.__package_name }}.engine.images.reading.new_files import (
    NewFiles,
    NewFilesReader,
)
from {{ cookiecutter.__package_name }}.engine.tools.answers import answers_of
from {{ cookiecutter.__package_name }}.engine.tools.prediction_file import Csv

SMALL = ("--data.eval_batch_size", "100")


@pytest.fixture(scope="module")
def images(trained, call, tmp_path_factory) -> Path:
    """The test images of the digits as files, a/0.png to b/359.png."""
    root = tmp_path_factory.mktemp("digits")
    for i, image in enumerate(digits().test.images):
        file = root / ("a" if i < 100 else "b") / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    assert call("predict", "--run", str(trained)) == 0
    return root


@pytest.fixture
def predict(trained, call, tmp_path):
    """Return a function that predicts an input; it returns the status and the table, if any."""

    def command(place, *flags, out="table.csv"):
        table = tmp_path / "out" / out
        named = ("--run", str(trained), "--input", str(place), "--out", str(table))
        status = call("predict", *named, *flags)
        left = [path.name for path in table.parent.iterdir()] if table.parent.exists() else []
        assert left == [out] * table.exists()
        return status, rows_of(table) if table.exists() else None

    return command


def test_a_folder_gives_what_the_evaluation_gives(trained, images, call):
    predict_as_in_the_evaluation(call, trained, images)
    rows = rows_of(trained / "new.csv")
    assert [row["path"] for row in rows] == [f"{'ab'[i >= 100]}/{i}.png" for i in range(360)]
    for row in rows:
        best = [float(row[f"top{i}_probability"]) for i in range(1, 6)]
        assert row["top1"] == row["class"] and row["top1_probability"] == row["probability"]
        assert best == sorted(best, reverse=True) and sum(best) <= 1.00001


def test_weights_of_another_network_are_refused_as_by_the_evaluation(
    trained, images, call, monkeypatch, capsys, tmp_path
):
    other = {"small_cnn": lambda num_classes, small_images: torch.nn.Linear(2, num_classes)}
    monkeypatch.setattr(networks, "NETWORKS", other)
    out = ("--input", str(images), "--out", str(tmp_path / "new.csv"))
    assert call("predict", "--run", str(trained), *out) == 2
    said = capsys.readouterr().err
    assert "The checkpoint is of another network: network.body.weight is not in it" in said
    assert "state_dict" not in said and "Restore networks.py" in said


def test_lists_tables_and_archives_give_what_the_folder_gives(images, predict, tmp_path):
    _, expected = predict(images)
    answers = {row.pop("path"): row for row in expected}
    chosen = ["b/300.png", "a/7.png", "a/10.png", "b/300.png"]
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "list.txt").write_text("\n".join(chosen) + "\n\n")
    (tmp_path / "images" / "table.csv").write_text(
        "id;path\n" + "".join(f"1;{x}\n" for x in chosen)
    )
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*chosen[:3], "../evil.png", "__MACOSX/a.png", ".b.png", "a/readme.md"):
            archive.write(images / (name if name in chosen else "a/1.png"), name)
    in_order = ["../evil.png", "a/7.png", "a/10.png", "b/300.png"]
    for place, names in (("list.txt", chosen), ("table.csv", chosen), ("../images.zip", in_order)):
        status, rows = predict(tmp_path / "images" / place, "--data.workers", "0")
        assert status == 0 and [row.pop("path") for row in rows] == names
        assert rows == [answers[name if name in answers else "a/1.png"] for name in names]
    assert predict(images / "a" / "7.png")[1] == [{"path": "7.png", **answers["a/7.png"]}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "images.zip", "out"]


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


WHOLE = jpeg()
DAMAGED = {
    "bits.jpg": (WHOLE[:1000] + bytes(200) + WHOLE[1200:], "is damaged: "),
    "cut.jpg": (WHOLE[:1000], "can't be decoded: "),
    "empty.png": (b"", "is empty (0 bytes)"),
    "text.png": (b"text", "is not an image in a format that Pillow reads"),
}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_damaged_files_are_rows_with_their_reason(workers, predict, tmp_path, capsys):
    root = tmp_path / "mixed"
    root.mkdir()
    for name, (content, _) in DAMAGED.items():
        (root / name).write_bytes(content)
    (root / "whole.jpg").write_bytes(WHOLE)
    (root / "b.txt").write_text("\n".join([*DAMAGED, "gone.png", "whole.jpg"]))
    expected = [reason for _, reason in DAMAGED.values()]
    flags = ("--data.workers", workers, "--data.eval_batch_size", "2")
    for place, errors in ((root, expected), (root / "b.txt", [*expected, "does not exist"])):
        status, rows = predict(place, *flags)
        assert status == 3 and len(rows) == len(errors) + 1
        for row, error in zip(rows, errors, strict=False):
            assert row["error"].startswith(error) and not row["class"] and not row["top1"]
        assert not rows[-1]["error"] and rows[-1]["class"]
        said = capsys.readouterr()
        assert ("note: 1 file ignored" in said.out) == (place == root)
        told = f"{len(errors)} of {len(rows)} images have no prediction; the column error says why"
        assert told in said.err and "  empty.png is empty (0 bytes)" in said.err


def test_standard_output_gets_the_table_and_nothing_else(trained, images, call, capsys):
    named = ("--run", str(trained), "--input", str(images / "a"), "--out", "-", "--all")
    assert call("predict", *named, *SMALL) == 0
    said = capsys.readouterr()
    header, *lines = said.out.splitlines()
    assert len(lines) == 100 and header.startswith("path,class,probability,top1,")
    assert header.endswith("top5_probability," + "".join(f"p_{i}," for i in range(10)) + "error")
    assert "predictions of " in said.err


def test_ctrl_c_keeps_the_rows_so_far_and_a_full_disk_keeps_the_old_table(
    images, predict, monkeypatch, capsys
):
    def interrupted(table, rows, write=Csv.write):
        write(table, rows)
        if rows[0][0] == "b/100.png":
            signal.raise_signal(signal.SIGINT)

    def full(table, rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Csv, "write", interrupted)
    status, kept = predict(images, *SMALL)
    assert status == 130 and len(kept) == 200
    assert "The table holds the first 200 of 360 images." in capsys.readouterr().out
    monkeypatch.setattr(Csv, "write", full)
    assert predict(images) == (2, kept)
    assert "table.csv can't be written: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_real_process_that_is_ended_leaves_a_whole_table_or_none(by, trained, images, tmp_path):
    out, paths = tmp_path / "table.csv", [str(path) for path in sorted(images.rglob("*.png"))]
    (tmp_path / "list.txt").write_text("\n".join(paths * 200))
    command = [sys.executable, "-m", package.__name__, "predict", "--run", str(trained)]
    command += ["--input", str(tmp_path / "list.txt"), "--out", str(out)]
    command += ["--data.eval_batch_size=4", "--data.workers=0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while not any(path.stat().st_size for path in tmp_path.glob(".table.csv.*.unfinished")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        process.send_signal(by)
        status = process.wait(60)
    said, left = (tmp_path / "log").read_text(), sorted(path.name for path in tmp_path.iterdir())
    assert status == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[by], said
    assert out.exists() == (by == signal.SIGINT)
    if by == signal.SIGINT:
        rows = rows_of(out)
        assert f"The table holds the first {len(rows):,} of {len(paths) * 200:,} images." in said
        assert [row["path"] for row in rows] == (paths * 200)[: len(rows)]
        assert all(row["class"] and row["error"] == "" for row in rows)
    if by != signal.SIGKILL:
        assert left == ["list.txt", "log", *["table.csv"] * out.exists()]


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("gone", None, (), "does not exist; expected a file or a folder"),
        ("a/notes.md", "", (), "holds no images. Expected files that end in .apng"),
        ("notes.md", "text", (), "is not an image in a format that Pillow reads. Expected an"),
        ("list.txt", "a.png\nb.png", (), "no file that it lists exists, such as a.png. Paths are"),
        ("list.txt", "", (), "list.txt holds no images"),
        ("table.csv", "file,label\na.png,b\n", (), "expected a column path"),
        ("a.zip", "text", (), "can't be read as a .zip file: File is not a zip file"),
        ("a.png", "", ("--out", "out.xlsx"), "expected a name that ends in .csv or .parquet, or -"),
        ("a.png", "", ("--out", "."), "--out . is a folder"),
        ("a.csv", "path\n", ("--out", "{place}"), "a.csv: choose another --out"),
        ("a.png", "", ("--out", "/proc/x/out.csv"), "can't be written: No such file or directory"),
        ("a.png", "", ("--data.batch_size", "3"), "--data.batch_size is unknown with --input"),
        (
            "a.png",
            "",
            ("--al",),
            "--al is unknown with --input. Did you mean '--all'? Flags",
        ),
        ("a.png", "", ("--data.workers=few",), "data.workers is 'few'; expected a whole number"),
        ("a.png", "", ("--trainer.devices=0",), "trainer.devices is 0, but this machine has"),
    ],
)
def test_an_input_without_images_is_refused(
    name, content, flags, message, trained, call, tmp_path, capsys
):
    place = tmp_path / name
    if content is not None:
        place.parent.mkdir(exist_ok=True)
        place.write_text(content)
    named = ("--input", str(place.parent if place.parent != tmp_path else place), *flags)
    named = [word.format(place=place) for word in named]
    assert call("predict", "--run", str(trained), *named) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")


def test_two_processes_write_the_table_of_one(trained, images, call):
    out = trained / "two.csv"
    named = ("--run", str(trained), "--input", str(images), "--out", str(out))
    (images / "b" / "broken.png").write_bytes(b"")
    before = (trained / "run.json").read_bytes()
    assert call("predict", *named, "--trainer.devices", "2", *SMALL) == 3
    (images / "b" / "broken.png").unlink()
    *rows, broken = rows_of(out)
    assert broken["error"] and (trained / "run.json").read_bytes() == before
    predict_as_in_the_evaluation(call, trained, images)
    assert rows == rows_of(trained / "new.csv")


def test_a_file_that_the_gpu_can_not_decode_is_named_and_the_others_are_decoded(
    tmp_path, monkeypatch
):
    """The GPU's decoder is replaced: it refuses one of the files, as nvJPEG and libjpeg might."""
    refused, size = jpeg(comment=b"refused"), (16, 12)

    def decode(buffer, packed, images):
        start = 0
        for length, row, *box in packed[0][:, :7].tolist():
            content = buffer[start : start + length].numpy().tobytes()
            if content == refused:
                raise ImageDecodeError("is refused")
            images[row] = torch.from_numpy(cropped(content, size, lambda *_, box=box: tuple(box)))
            start += length

    gpu_decode = types.ModuleType("gpu_decode")
    gpu_decode.decode = decode
    monkeypatch.setitem(sys.modules, f"{decoding.__name__}.gpu_decode", gpu_decode)
    files = {"0.jpg": WHOLE, "1.jpg": refused, "2.png": b"text", "3.jpg": jpeg(comment=b"other")}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    facts = Facts("", {}, "", shapes={"images": (3, 12, 16)}, extra={"from_files": True})
    rows, cpu = NewFiles(Paths.of(tmp_path, files), facts), torch.device("cpu")
    reader, index = NewFilesReader(rows, "gpu", cpu), np.array([0, 1, 2, 3, -1])
    slot = np.zeros(reader.slot_size(5), np.uint8)
    answer = reader.read(index, None, None, slot)
    assert index.tolist() == [0, 1, -1, 3, -1] and rows.problems == {}
    places = torch.from_numpy(index).clamp(min=0)
    images = reader.finish(places, torch.from_numpy(slot), answer, cpu).images
    assert rows.problems[1] == "can't be decoded" and rows.problems[2].startswith("is not an image")
    assert images.shape == (5, 3, 12, 16) and torch.equal(images[0], images[3])
    assert torch.equal(images[0], rows.take(torch.tensor([0]), None, None).images[0])
    assert not images[1].any() and not images[2].any()


@pytest.mark.parametrize(
    ("predictions", "lengths", "names", "cells"),
    [
        (torch.tensor([0.3, 2.0]), False, ["prediction"], [[0.3], [2.0]]),
        (torch.tensor([[1, 2], [3, 4]]), False, ["prediction1", "prediction2"], [[1, 2], [3, 4]]),
        (torch.tensor([[1, 2]]), True, ["prediction"], [["[1, 2]"]]),
        (torch.ones(1, 2, 1), False, ["prediction"], [["[[1.0], [1.0]]"]]),
    ],
)
def test_predictions_that_are_no_classes_have_a_column_for_each_number(
    predictions, lengths, names, cells
):
    answers = answers_of(predictions, (), lengths, True)
    assert [column.name for column in answers.columns] == names
    assert answers.cells(*answers.reduced(predictions)) == cells
