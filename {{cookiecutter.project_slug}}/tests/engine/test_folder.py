"""Image folders: every odd file is shown as it was meant or refused by name, and read but once."""

import csv
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import data_with_flags
from {{ cookiecutter.__package_name }}.engine.data import streaming
from {{ cookiecutter.__package_name }}.engine.data.order import (
    BatchShard,
    EpochPlan,
)
from {{ cookiecutter.__package_name }}.engine.data.streaming import (
    StreamConfig,
    StreamingLoader,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.checking import (
    inspection,
)
from {{ cookiecutter.__package_name }}.engine.images.decoding import (
    boxes,
    decode,
)
from {{ cookiecutter.__package_name }}.engine.images.folder import folder
from {{ cookiecutter.__package_name }}.engine.images.reading import (
    reader,
)
from {{ cookiecutter.__package_name }}.engine.images.reading.reader import (
    FileRows,
    ReadConfig,
)
from {{ cookiecutter.__package_name }}.engine.images.splits import Files
from {{ cookiecutter.__package_name }}.engine.tools.trials import (
    BenchWorker,
    _UntilTime,
)

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
DELAY = 0.2  # seconds that a slowed part of a step takes: more than all others on a busy machine


def picture(colour=(200, 100, 50), size=(96, 72), seed=0) -> Image.Image:
    """One colour with some noise: no two seeds give the same file."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8))


def write_classes(root: Path, count: int, seed: int = 0) -> Path:
    for number, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(colour, seed=seed + 1000 * number + i).save(root / name / f"{i:03}.jpg")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return write_classes(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture(scope="session")
def oddities(tmp_path_factory) -> Path:
    """One of each file that a collection of images may hold, all of the same orange half."""
    root = tmp_path_factory.mktemp("oddities")
    half = picture(size=(100, 100))
    half.paste((10, 20, 30), (0, 0, 50, 100))  # the left half dark, so that turning it shows
    half.save(root / "plain.jpg", quality=95)
    half.save(root / "progressive.jpg", quality=95, progressive=True)
    half.save(root / "web.webp", lossless=True)
    half.save(root / "really a png.jpg", "PNG")
    half.quantize(256).save(root / "palette.png")
    half.convert("CMYK").save(root / "print.jpg", quality=95)
    half.convert("L").save(root / "grey.jpg", quality=95)
    sixteen = np.asarray(half.convert("L")).astype(np.uint16) * 257
    Image.fromarray(sixteen).save(root / "sixteen bits.png")
    half.putalpha(Image.new("L", half.size, 255))
    half.save(root / "with alpha.png")
    clear = half.copy()
    clear.putalpha(0)
    clear.save(root / "transparent.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # shown after a quarter turn clockwise
    upright = half.convert("RGB")
    upright.rotate(90, expand=True).save(root / "camera.jpg", quality=95, exif=turned)
    for name in ("ünï 日本\n.jpg", "-rf; $(touch x) 'q\".jpg", "a" * 200 + ".jpg"):
        upright.save(root / name, quality=95)
    upright.save(os.fsencode(root) + b"/not utf-8 \xff.jpg", "JPEG", quality=95)
    upright.resize((11_000, 9_100), Image.Resampling.NEAREST).save(root / "100 megapixels.jpg")
    Image.new("1", (20_000, 10_000)).save(root / "200 megapixels.png")
    whole = (root / "plain.jpg").read_bytes()
    (root / "cut short.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").touch()
    (root / "corrupt.jpg").write_bytes(whole[:3] + bytes(range(256)) * 20)
    (root / "a text.jpg").write_text("no image")
    Image.fromarray(np.ones((9, 9), np.float32)).save(root / "floats.tiff")
    (root / "dangling.jpg").symlink_to(root / "nothing")
    return root


def contents_of(part: Files) -> set[bytes]:
    return {digest.tobytes() for digest in part.sha256}


SHOWN_GREY = {"grey.jpg", "sixteen bits.png"}
REFUSED = {
    "200 megapixels.png": "has over 179 megapixels",
    "cut short.jpg": "can't be decoded: image file is truncated",
    "empty.jpg": "is empty",
    "corrupt.jpg": "is not an image",
    "a text.jpg": "is not an image",
    "floats.tiff": "holds floating point numbers",
    "dangling.jpg": "can't be read: No such file",
}


def test_every_odd_image_is_shown_as_it_was_meant_or_refused_with_the_reason(oddities):
    expected = np.asarray(picture(size=(100, 100)))[:, 60:].mean((0, 1))
    for path in sorted(oddities.iterdir()):
        problem = inspection.inspect(path)[1]
        if path.name in REFUSED:
            assert problem is not None and problem.startswith(REFUSED[path.name]), path.name
            with pytest.raises(decode.ImageDecodeError):
                decode.center_crop(path, 32)
            continue
        assert problem is None, path.name
        pixels = decode.center_crop(path, 32).astype(float)
        dark, bright = pixels[:, :12].mean((0, 1)), pixels[:, 20:].mean((0, 1))
        if path.name == "transparent.png":
            assert pixels.min() == 255
        elif path.name in SHOWN_GREY:
            grey = expected @ (0.299, 0.587, 0.114)
            assert bright == pytest.approx([grey] * 3, abs=3), path.name
        else:
            assert bright == pytest.approx(expected, abs=4), path.name
            assert dark == pytest.approx((10, 20, 30), abs=5), path.name


def test_a_folder_with_bad_images_is_refused_with_every_name(oddities, tmp_path):
    root = write_classes(tmp_path / "images", 4)
    shutil.copytree(oddities, root / "odd", symlinks=True)
    with pytest.raises(UserError) as refusal:
        folder(str(root))
    text = str(refusal.value)
    assert text.startswith(f"{len(REFUSED)} of 35 images can't be used:")
    for name, reason in REFUSED.items():
        assert f"{name} {reason}" in text
    assert "--data.options.skip_bad true" in text
    splits = folder(str(root), skip_bad=True)
    assert sum(splits.rows.values()) == 35 - len(REFUSED)
    assert "7 of 35 images left out" in splits.remarks[0] and "empty.jpg" in splits.remarks[0]
    assert text.encode() and splits.remarks[0].encode()  # can be printed: no half characters


def test_a_folder_of_classes_is_divided_by_content_alone(images, tmp_path):
    splits = folder(str(images))
    assert splits.classes == ("blue", "green", "red")
    parts = (splits.train, splits.val, splits.test)
    assert [part.labels.bincount().tolist() for part in parts] == [[16] * 3, [2] * 3, [2] * 3]
    copy = tmp_path / "moved"
    for number, path in enumerate(sorted(images.rglob("*.jpg"), reverse=True)):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.parent.name / f"renamed {number:03}.jpg")
    renamed = folder(str(copy))
    for part, other in zip(parts, (renamed.train, renamed.val, renamed.test), strict=True):
        assert contents_of(part) == contents_of(other)


def test_the_fingerprint_follows_content_and_not_the_place(images, tmp_path):
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    assert folder(str(moved)).fingerprint == folder(str(images)).fingerprint
    picture(seed=99).save(moved / "red" / "000.jpg")
    assert folder(str(moved)).fingerprint != folder(str(images)).fingerprint


def test_given_splits_are_kept(tmp_path):
    for seed, (name, count) in enumerate({"train": 3, "valid": 2, "test": 1}.items()):
        write_classes(tmp_path / name, count, seed=100 * seed)
    splits = folder(str(tmp_path))
    assert list(splits.rows.values()) == [9, 6, 3]
    shutil.rmtree(tmp_path / "test")
    shutil.rmtree(tmp_path / "valid")
    write_classes(tmp_path / "more", 1)
    splits = folder(str(tmp_path), val_share=0.34)
    assert list(splits.rows.values()) == [6, 3, 0]


def test_a_table_names_images_labels_and_splits(images, tmp_path):
    table = tmp_path / "table.csv"
    rows = [
        (path, path.parent.name, "validation" if i % 5 == 0 else "train")
        for i, path in enumerate(sorted(images.rglob("*.jpg")))
    ]
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    splits = folder(str(table))
    assert list(splits.rows.values()) == [48, 12, 0]
    assert splits.val[0] == rows[0][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.jpg,x\n", r"begins with the line 'file,class'; expected path,label"),
        ("path,label\na.jpg,\n", "line 2: expected a path and a label"),
        ("path,label,split\na.jpg,x,tset\n", "line 2: the split is 'tset'; expected train"),
        ("path,label,set\na.jpg,x,train\nb.jpg,x,2\n", "line 3: the set is '2'; expected"),
        ("path,label\nnone.jpg,x\n", "none.jpg can't be read: No such file"),
        ("path,label\n", "holds no images"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        folder(str(tmp_path / "table.csv"))


def test_the_same_image_in_two_splits_or_two_classes_is_refused(tmp_path):
    write_classes(tmp_path / "train", 4)
    write_classes(tmp_path / "val", 2, seed=500)
    shutil.copy(tmp_path / "train/red/001.jpg", tmp_path / "val/red/copy.jpg")
    shutil.copy(tmp_path / "train/blue/001.jpg", tmp_path / "train/green/copy.jpg")
    with pytest.raises(UserError) as refusal:
        folder(str(tmp_path))
    lines = str(refusal.value).splitlines()[1:-1]
    assert any("train/red/001.jpg is also in val: " in line for line in lines)
    assert sum("is the same image as" in line for line in lines) == 2 and len(lines) == 3
    splits = folder(str(tmp_path), skip_bad=True)
    assert (splits.train.n, splits.val.n) == (10, 7)


def test_copies_within_a_class_stay_in_one_split(tmp_path):
    root = write_classes(tmp_path / "images", 10)
    for path in sorted(root.rglob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    splits = folder(str(root))
    contents = [contents_of(part) for part in (splits.train, splits.val, splits.test)]
    assert [len(content) for content in contents] == [24, 3, 3]
    assert len(set.union(*contents)) == 30


def test_empty_and_missing_classes_are_named(tmp_path):
    write_classes(tmp_path / "train", 4)
    write_classes(tmp_path / "val", 2, seed=500)
    shutil.rmtree(tmp_path / "val/red")
    assert "'red' has no validation images, so" in folder(str(tmp_path)).remarks[0]
    (tmp_path / "train/yellow").mkdir()
    with pytest.raises(UserError, match=r"yellow'?: a class's folder without an image"):
        folder(str(tmp_path))
    picture(seed=7).save(tmp_path / "train/yellow/a.jpg")
    (tmp_path / "train/yellow").rename(tmp_path / "val/yellow")
    message = "no training images of 'yellow', but .* classes in train are .*: rename the others"
    with pytest.raises(UserError, match=message):
        folder(str(tmp_path))


def test_splits_are_known_under_their_usual_names_and_never_taken_for_classes(tmp_path):
    write_classes(tmp_path / "Training", 3)
    write_classes(tmp_path / "Testing", 1, seed=50)
    splits = folder(str(tmp_path), val_share=0.34)
    assert list(splits.rows.values()) == [6, 3, 3]
    write_classes(tmp_path / "train", 1, seed=90)
    with pytest.raises(UserError, match="holds both Training and train"):
        folder(str(tmp_path))
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "Training")
    with pytest.raises(UserError, match="but no folder train"):
        folder(str(tmp_path))


def test_a_single_class_and_a_set_without_validation_are_refused(images, tmp_path):
    shutil.copytree(images, tmp_path / "unzipped" / "dataset")
    with pytest.raises(UserError, match="has only the class 'dataset'"):
        folder(str(tmp_path / "unzipped"))
    with pytest.raises(UserError, match="leaves no validation images"):
        folder(str(images), val_share=0.0)
    with pytest.raises(UserError, match="expected shares, below 1"):
        folder(str(images), val_share=-1.0)


def test_images_beside_the_classes_are_named(images, tmp_path):
    root = Path(shutil.copytree(images, tmp_path / "images"))
    picture(seed=1234).save(root / "loose.jpg")
    assert "loose.jpg" in folder(str(root)).remarks[0]


def test_a_resume_or_an_evaluation_on_other_data_does_not_pass_unseen(
    images, call, tmp_path, capsys
):
    root, run = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "run"
    flags = ("--config", "configs/imagefolder.yaml", f"--data.options.path={root}")
    flags += ("--data.image_size", "16", "--data.batch_size", "8", "--model.network", "small_cnn")
    flags += ("--trainer.max_epochs", "1", "--data.workers", "0")
    assert call("fit", *flags, folder=run) == 0
    before = json.loads((run / "run.json").read_text())
    (root / "red" / "003.jpg").unlink()
    capsys.readouterr()
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "2") == 2
    assert "The dataset has changed since this run started" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text()) == before
    assert not list(run.glob("*.resume-*"))
    assert call("test", "--run", str(run)) == 0
    assert "the dataset is not the run's" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_an_evaluation_on_other_classes_names_them(verb, images, call, tmp_path, capsys):
    root, run = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "run"
    flags = ("--config", "configs/imagefolder.yaml", f"--data.options.path={root}")
    flags += ("--data.image_size", "16", "--data.batch_size", "8", "--model.network", "small_cnn")
    assert call("fit", *flags, "--trainer.max_steps=1", "--data.workers=0", folder=run) == 0
    shutil.copytree(write_classes(tmp_path / "more", 20, seed=9000) / "red", root / "pink")
    for left_out, message in (
        ((), "'pink' is a class of the data, not of the run. Use"),
        (("blue",), "'pink' is a class of the data, not of the run (and 1 more). Use"),
        (("pink",), "'blue' is a class of the run, not of the data. Use"),
    ):
        for name in left_out:
            shutil.rmtree(root / name)
        assert call(verb, "--run", str(run)) == 2
        error = capsys.readouterr().err
        assert f"{message} data with the run's classes (blue, green, red)" in error


def test_what_is_no_image_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"does not exist.*--data\.options\.path"):
        folder(str(tmp_path / "nowhere"))
    picture().save(tmp_path / "loose.jpg")
    with pytest.raises(UserError, match="Expected one folder per class"):
        folder(str(tmp_path))
    with pytest.raises(UserError, match=r"neither a folder nor a \.csv file"):
        folder(str(tmp_path / "loose.jpg"))


def test_other_and_hidden_files_are_passed_over(tmp_path):
    root = write_classes(tmp_path / "images", 4)
    (root / "red" / "notes.txt").touch()
    for name in (".DS_Store", "._000.jpg"):
        (root / "red" / name).touch()
    (root / ".ipynb_checkpoints").mkdir()
    splits = folder(str(root))
    assert splits.classes == ("blue", "green", "red")
    assert splits.remarks[0].startswith("1 file ignored") and "notes.txt" in splits.remarks[0]


def read_by_workers(images: Path) -> ImageData:
    settings = {"batch_size": 8, "image_size": 24, "workers": 1}
    return data_with_flags(ImageData)(source="folder", options={"path": str(images)}, **settings)


def config_of(workers: int = 0, **how) -> StreamConfig:
    return StreamConfig(workers, **how)


def rows_of(files: Files, flip: bool = True) -> FileRows:
    return FileRows(files, ReadConfig(24, flip=flip))


def trained_on(files: Files, config: StreamConfig, position, flip: bool = True) -> StreamingLoader:
    plan = EpochPlan(files.n, BatchShard(8), 3, position)
    return StreamingLoader(rows_of(files, flip).reader(config), plan, config)


def stream(
    files: Files, config: StreamConfig, position=(0, 0), flip: bool = True
) -> StreamingLoader:
    return trained_on(files, config, lambda: position, flip)


def evaluated(files: Files, shard: BatchShard, workers: int = 0) -> StreamingLoader:
    config = config_of(workers)
    return StreamingLoader(rows_of(files).reader(config), EpochPlan(files.n, shard), config)


def end_workers() -> None:
    """Where Python collects them, torch waits 5 s for each (its issue 81794)."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def test_workers_change_no_bit_of_what_the_network_sees(images):
    files = folder(str(images)).train
    for epoch in (0, 1):
        alone, shared = (list(stream(files, config_of(workers), (epoch, 0))) for workers in (0, 2))
        assert len(alone) == len(shared) == 6
        for a, b in zip(alone, shared, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_a_stream_resumes_inside_an_epoch_and_crops_anew_in_each(images):
    files = folder(str(images)).train
    whole, rest = (list(stream(files, config_of(), (2, first))) for first in (0, 4))
    assert torch.equal(whole[4].images, rest[0].images) and len(rest) == 2
    other = list(stream(files, config_of(), (3, 0)))
    first, second = (
        torch.cat([batch.images for batch in part])[
            torch.cat([batch.row for batch in part]).argsort()
        ]
        for part in (whole, other)
    )
    assert (first != second).flatten(1).any(1).float().mean() > 0.95


def test_a_sigterm_that_comes_to_the_workers_too_ends_none(images):
    others = set(multiprocessing.active_children())
    batches = iter(stream(folder(str(images)).train, config_of(1)))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    subprocess.run(["kill", str(worker.pid)], check=True)  # as anyone but its parent does
    assert len(list(batches)) == 5
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


def test_persistent_workers_read_every_epoch_asked_for(images):
    files, epoch = folder(str(images)).train, [0]
    loader = trained_on(files, config_of(1), lambda: (epoch[0], 0))
    for epoch[0] in (0, 1):
        expected = list(stream(files, config_of(), (epoch[0], 0)))
        assert torch.equal(next(iter(loader)).images, expected[0].images)  # and is left unfinished
    end_workers()


def test_the_next_epoch_is_read_while_something_else_is_done(images):
    files, config, epoch = folder(str(images)).train, config_of(1, endless=True), 0
    loader = trained_on(files, config, lambda: (epoch, 0), flip=False)
    assert len(list(loader)) == 6
    epoch, running = 1, loader.running
    expected = list(stream(files, config_of(), (1, 0), flip=False))
    pixels = expected[0].images.permute(0, 2, 3, 1).flatten()
    slot = loader.memory[6 % config.slots][: len(pixels)]
    end = time.monotonic() + 60
    while not torch.equal(slot, pixels) and time.monotonic() < end:
        time.sleep(0.01)
    assert torch.equal(slot, pixels)  # and nobody has asked for it
    for batch, same in zip(loader, expected, strict=True):
        assert torch.equal(batch.images, same.images)
    assert loader.running is running
    end_workers()


def test_an_epoch_that_is_cut_is_followed_by_what_is_asked_for(images):
    files, at = folder(str(images)).train, [(0, 0)]
    loader = trained_on(files, config_of(1, endless=True), lambda: at[0])
    for at[0], count in (((0, 0), 4), ((1, 0), 2), ((1, 2), 4), ((5, 3), 3), ((5, 3), 1)):
        expected = list(stream(files, config_of(), at[0]))[:count]
        for batch, same in zip(itertools.islice(loader, count), expected, strict=True):
            assert torch.equal(batch.images, same.images)
    end_workers()


def test_a_loader_gives_its_last_batch_to_whoever_stops_there_again_and_again(images):
    loader = evaluated(folder(str(images)).train, BatchShard(24))
    once, again = (list(itertools.islice(loader, len(loader))) for _ in range(2))
    assert len(once) == 2 and torch.equal(once[1].images, again[1].images)


def test_the_workers_of_an_evaluation_end_with_it(images):
    others = set(multiprocessing.active_children())
    assert len(list(evaluated(folder(str(images)).train, BatchShard(24), workers=1))) == 2
    assert set(multiprocessing.active_children()) <= others


def test_the_workers_of_a_measurement_on_one_batch_end_at_once(images):
    data = read_by_workers(images)
    clock = SimpleNamespace(device=torch.device("cpu"))
    worker = SimpleNamespace(one_batch=True, length=0, clock=clock, steps=0)
    worker.is_over = lambda steps: True
    others = set(multiprocessing.active_children())
    batches = _UntilTime(data.train_dataloader(), worker)
    assert len(next(iter(batches)).row) == 8
    assert set(multiprocessing.active_children()) <= others


def test_measuring_what_a_loader_brings_reads_no_batch_in_vain(images, monkeypatch):
    asked, brought, read = [], [], streaming._Requests.__iter__

    def listed(requests):
        for request in read(requests):
            asked.append(request)
            yield request

    monkeypatch.setattr(streaming._Requests, "__iter__", listed)
    config, others = config_of(2, endless=True), set(multiprocessing.active_children())
    loader = trained_on(folder(str(images)).train, config, lambda: (0, 0))
    strategy = SimpleNamespace(batch_to_device=lambda batch: brought.append(batch) or batch)
    worker = SimpleNamespace(one_batch=False, clock=SimpleNamespace(device=torch.device("cpu")))
    trainer = SimpleNamespace(train_dataloader=_UntilTime(loader, worker), strategy=strategy)
    assert BenchWorker._loader_rate(worker, trainer, seconds=0.3)["rate"] > 0
    assert len(brought) > 3 * len(loader)  # so epochs followed one another
    assert len(asked) <= 1 + len(brought) + config.slots
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("slow", ["reading", "training"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_says_whether_reading_or_training_limits_it(
    slow, workers, images, call, monkeypatch, tmp_path, capsys
):
    place = (reader.ImageReader, "read") if slow == "reading" else (ImageClassifier, "loss")
    quick = getattr(*place)

    def slowed(*arguments):
        time.sleep(DELAY)
        return quick(*arguments)

    monkeypatch.setattr(*place, slowed)
    source = ["--data.source=folder", f"--data.options.path={images}", "--data.image_size=16"]
    sizes = ["--data.batch_size=8", f"--data.workers={workers}", "--trainer.max_epochs=4"]
    sizes += ["--data.global_batch_size=16", "--trainer.limit_val_batches=1"]
    assert call("fit", *source, *sizes, "--trainer.accelerator=cpu", folder=tmp_path) == 0
    (said,) = re.findall(r"^reading: .*$", capsys.readouterr().out, re.MULTILINE)
    pattern = r"reading: up to ([\d,]+) images/s; training: up to ([\d,]+); (.+)"
    *speeds, limits = re.fullmatch(pattern, said).groups()
    found = json.loads((tmp_path / "run.json").read_text())["results"]["reading"]
    assert speeds == [f"{found[name]:,.0f}" for name in ("read", "trained")]
    if not workers:
        assert limits == "one after the other, without workers"
    else:
        assert limits == f"reading {'is the bottleneck' if slow == 'reading' else 'keeps up'}"
    if slow == "reading":
        assert found["read"] < 8 / DELAY * max(workers, 1) and found["trained"] > 8 / DELAY
    else:
        assert found["trained"] < 8 / DELAY < found["read"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["false", "step-graph"])
def test_steps_on_a_gpu_are_timed_there(mode, call, tmp_path):
    """The network is so large that the GPU, not the host, sets the pace of the steps."""
    path = write_classes(tmp_path / "images", 200)
    source = ["--data.source=folder", f"--data.options.path={path}", "--data.image_size=224"]
    sizes = ["--data.batch_size=48", "--data.workers=4", "--trainer.max_epochs=4"]
    network = ["--model.network=vit_b_16", "--model.compile", mode, "--data.decoder=cpu"]
    assert call("fit", *source, *sizes, *network, folder=tmp_path / "run") == 0
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    read, trained = results["reading"].values()
    assert trained < read and 0.5 < results["rows_per_second"] / trained < 1.2


def test_evaluation_reads_the_middle_of_every_image_once(images):
    files = folder(str(images)).train
    shares = [BatchShard(10, rank, 2) for rank in (0, 1)]
    batches = [batch for share in shares for batch in evaluated(files, share)]
    assert {tuple(batch.images.shape) for batch in batches} == {(10, 3, 24, 24)}
    seen = torch.cat([batch.row for batch in batches])
    assert torch.equal(seen[seen >= 0].sort().values, torch.arange(files.n))
    expected = decode.center_crop(files[int(batches[0].row[0])], 24)
    assert torch.equal(batches[0].images[0].permute(1, 2, 0), torch.from_numpy(expected.copy()))


@pytest.mark.parametrize("smallest", [0.1, 1.0])
def test_a_random_crop_stays_inside_and_covers_what_it_is_asked_to(smallest):
    draws = np.random.default_rng(0).random((500, 5))
    for width, height in ((400, 300), (50, 900)):
        drawn = [boxes.random_box(width, height, list(d), smallest, flip=True) for d in draws]
        left, upper, right, lower, mirrored = np.array(drawn).T
        assert np.array_equal(mirrored, draws[:, 4] < 0.5)
        assert left.min() >= 0 and upper.min() >= 0
        assert right.max() <= width + 1e-9 and lower.max() <= height + 1e-9
        area = (right - left) * (lower - upper) / (width * height)
        assert area.max() <= 1 + 1e-9
        if (width, height) == (400, 300):
            assert area.min() >= smallest * 0.7 and area.std() > (0.1 if smallest < 1 else 0)


def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path):
    smooth = picture(size=(40, 30)).resize((1600, 1200), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "large.jpg", quality=95)
    smooth.save(tmp_path / "large.png")
    jpeg, png = (decode.center_crop(tmp_path / f"large.{kind}", 64) for kind in ("jpg", "png"))
    assert np.abs(jpeg.astype(int) - png).mean() < 1.5


def test_too_little_shared_memory_is_seen_before_training(images):
    files, config = folder(str(images)).train, config_of(workers=8, prefetch=3)
    needed = 8 * 4 * 128 * 24 * 24 * 3
    size = rows_of(files).reader(config).slot_size(128)
    streaming.check_shared_memory(config, size, 2, 2 * needed)
    streaming.check_shared_memory(config, size, 1, None)
    with pytest.raises(UserError, match=r"/dev/shm has 6 MiB free.*--shm-size"):
        streaming.check_shared_memory(config, size, 1, needed - 2**20)
    files_on_disk = [path.stat().st_size for path in images.rglob("*.jpg")]
    size = reader.ImageReader(rows_of(files), "gpu", torch.device("cpu")).slot_size(128)
    assert 1.2 * 128 * np.mean(files_on_disk) < size < 2 * 128 * np.mean(files_on_disk) + 4096


def test_a_file_that_goes_bad_during_training_is_named(images, tmp_path, call, capsys):
    root = Path(shutil.copytree(images, tmp_path / "images"))
    data = read_by_workers(root)
    for path in root.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"\.jpg can't be decoded.*valid when first checked"):
        list(data.train_dataloader())
    end_workers()


def test_the_folder_recipe_trains_resumes_and_is_scored(images, call, tmp_path, monkeypatch):
    flags = ("--config", "configs/imagefolder.yaml", f"--data.options.path={images}")
    flags += ("--data.image_size", "32", "--data.batch_size", "8", "--model.network", "small_cnn")
    flags += ("--trainer.max_epochs", "3", "--data.workers", "1")
    flags += ("--trainer.val_check_interval", "2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    others = set(multiprocessing.active_children())
    assert call("fit", *flags, folder=whole) == 0

    def interrupt(model: ImageClassifier, *_) -> None:
        if model.global_step == 9:  # inside the second epoch
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", interrupt)
        assert call("fit", *flags, folder=broken) == 130
    assert call("fit", "--run", str(broken), "--data.workers", "0") == 0
    assert call("test", "--run", str(whole)) == 0
    assert set(multiprocessing.active_children()) <= others  # all workers have ended
    records = [json.loads((run / "run.json").read_text()) for run in (whole, broken)]
    weights = {record["results"]["weights_sha256"] for record in records}
    assert len(weights) == 1 and len(records[1]["resumes"]) == 1
    assert records[0]["results"]["test/accuracy"] > 0.9
    assert records[0]["data"]["rows"] == {"train": 48, "val": 6, "test": 6}
    assert (whole / "predictions.png").stat().st_size > 10_000
