"""`--data.check later`: training starts at once, and what the check finds is named and handled."""

import io
import json
import multiprocessing
import pickle
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.data.streaming import (
    StreamConfig,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images import (
    later,
)
from {{ cookiecutter.__package_name }}.engine.images.checking import (
    file_check,
)
from {{ cookiecutter.__package_name }}.engine.images.checking.left_out import (
    LeftOut,
)
from {{ cookiecutter.__package_name }}.engine.images.folder import folder
from {{ cookiecutter.__package_name }}.engine.images.later import (
    LaterCheck,
    checked,
)
from {{ cookiecutter.__package_name }}.engine.images.reading.reader import (
    FileRows,
    ReadConfig,
)
from {{ cookiecutter.__package_name }}.engine.images.splits import ImageSplits


@pytest.fixture(autouse=True)
def _own_cache_and_frequent_reports(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(later, "REPORT_EVERY", 0.0)


def photograph(seed: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=90)
    return file.getvalue()


def classes(root: Path, each: int, seed: int = 0) -> list[Path]:
    paths = [root / name / f"{i:02}.jpg" for name in ("day", "night") for i in range(each)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(seed + number))
    return paths


def damaged_in_the_middle(path: Path) -> None:
    """Damage that the decoder fills with grey, so that only the check finds it."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)


def listed(root: Path, **options) -> ImageSplits:
    with checked("later"):
        return folder(str(root), **options)


def done(splits: ImageSplits) -> LaterCheck:
    """Wait for the check of all files."""
    check = splits.later
    check.start()
    check.process.join()
    check.stop()
    check.left_out.unlink()
    return check


def rows(split) -> FileRows:
    return FileRows(split, ReadConfig(16))


def test_nothing_is_opened_before_training(tmp_path, monkeypatch):
    classes(tmp_path / "images", 10)
    monkeypatch.setattr(file_check, "inspect_all", lambda paths: 1 / 0)
    splits = listed(tmp_path / "images")
    splits.later.left_out.unlink()
    assert list(splits.rows.values()) == [16, 2, 2]
    assert "checked while training" in splits.remarks[-1]
    with pytest.raises(ZeroDivisionError):
        folder(str(tmp_path / "images"))


def test_the_division_depends_on_names_only_and_not_on_what_is_known(tmp_path):
    classes(tmp_path / "images", 20)
    first = listed(tmp_path / "images")
    assert done(first).known == 40
    again = listed(tmp_path / "images")
    again.later.left_out.unlink()
    assert again.fingerprint == first.fingerprint
    parts = [[str(part[i]) for i in range(part.n)] for part in (again.train, again.test)]
    assert parts == [[str(p[i]) for i in range(p.n)] for p in (first.train, first.test)]
    (tmp_path / "images/day/00.jpg").rename(tmp_path / "images/day/renamed.jpg")
    other = listed(tmp_path / "images")
    other.later.left_out.unlink()
    assert other.fingerprint != first.fingerprint


def test_a_later_start_needs_no_check_of_what_was_checked_beside_training(tmp_path, monkeypatch):
    classes(tmp_path / "images", 6)
    assert done(listed(tmp_path / "images")).problem == ""
    monkeypatch.setattr(file_check, "inspect_all", lambda paths: 1 / 0)
    assert sum(folder(str(tmp_path / "images")).rows.values()) == 12


def test_what_can_not_be_used_ends_training_and_is_named(tmp_path):
    paths = classes(tmp_path / "images", 8)
    damaged_in_the_middle(paths[3])
    check = done(listed(tmp_path / "images"))
    assert "1 image can't be used" in check.problem and "skip_bad true" in check.problem
    assert "03.jpg is damaged" in check.problem


def test_what_can_not_be_used_is_left_out_and_named(tmp_path, capsys):
    paths = classes(tmp_path / "images", 8)
    damaged_in_the_middle(paths[3])
    paths[12].write_bytes(b"no image")
    check = done(listed(tmp_path / "images", skip_bad=True))
    assert not check.problem and check.as_json() == {"files": 16, "checked": 16, "bad": 2}
    assert check.left_out.flags.nonzero()[0].tolist() == [3, 12]
    said = capsys.readouterr().out
    assert "03.jpg is damaged" in said and "04.jpg is not an image" in said
    assert check.remarks[-1].startswith("2 of 16 images left out")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_the_same_image_in_two_classes_is_found(skip_bad, tmp_path):
    paths = classes(tmp_path / "images", 8)
    shutil.copy(paths[2], paths[10])
    check = done(listed(tmp_path / "images", skip_bad=skip_bad))
    if skip_bad:
        assert check.left_out.flags.nonzero()[0].tolist() == [2, 10]
    else:
        assert "is the same image as" in check.problem


def test_copies_that_their_names_put_into_two_splits_are_left_out_of_one(tmp_path):
    paths = classes(tmp_path / "images", 30)
    for path in paths[:30]:  # of each image a copy
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    splits = listed(tmp_path / "images", val_share=0.4)
    check = done(splits)
    contents = {
        name: {part[i].read_bytes() for i in range(part.n) if not part.unchecked.is_left_out(i)}
        for name, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }
    assert not check.problem and "copies of images in another split" in check.remarks[-1]
    assert not contents["train"] & contents["val"] and not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"] and len(set.union(*contents.values())) == 60


def test_a_file_of_no_use_is_replaced_in_training_and_missing_in_an_evaluation(tmp_path):
    paths = classes(tmp_path / "images", 10)
    splits = listed(tmp_path / "images", skip_bad=True)
    splits.later.left_out.unlink()
    part = splits.train
    broken = paths.index(part[1])
    paths[broken].write_bytes(b"no image any more")
    splits.later.left_out.flags[paths.index(part[2])] = 1
    reader, size = rows(part).reader(StreamConfig()), 4 * 16 * 16 * 3
    slot = np.zeros(size, np.uint8)

    def read(wanted, uniforms):
        index = np.array(wanted)
        rest = reader.read(index, None, uniforms, slot)
        row = torch.from_numpy(index)
        return index.tolist(), reader.finish(row.clamp(0), torch.from_numpy(slot), rest, row.device)

    def middle(k):
        return torch.full((4, k), 0.5)

    index, batch = read([0, 1, 2, part.n - 1], middle)
    assert index == [0, 3, 3, part.n - 1]
    assert batch.labels.tolist() == part.labels[index].tolist()
    assert torch.equal(batch.images[1], batch.images[2])
    index, batch = read([0, 1, 2, -1], None)
    assert index == [0, -1, -1, -1] and not batch.images[1:].any()


def test_without_skip_bad_a_file_that_is_read_first_ends_training(tmp_path):
    paths = classes(tmp_path / "images", 5)
    paths[0].write_bytes(b"no image")
    splits = listed(tmp_path / "images")
    splits.later.left_out.unlink()
    part = next(
        p for p in (splits.train, splits.val, splits.test) if paths[0] in [p[i] for i in range(p.n)]
    )
    with pytest.raises(UserError, match=r"00\.jpg is not an image.*skip_bad true"):
        rows(part).take(torch.arange(part.n), None, None)


def test_a_loader_that_reads_all_before_training_is_refused(tmp_path):
    classes(tmp_path / "images", 5)
    data = ImageData("folder", {"path": str(tmp_path / "images")}, check="later", image_size=16)
    with pytest.raises(UserError, match=r"data\.check is later, .*--data\.check now"):
        rows(data.splits.train.files).load()


def test_a_check_that_is_stopped_early_keeps_what_it_knows(tmp_path, monkeypatch):
    classes(tmp_path / "images", 40)
    inspect_all = file_check.inspect_all

    def slow(paths):
        time.sleep(0.05 * len(paths))
        return inspect_all(paths)

    monkeypatch.setattr(file_check, "PART_FILES", 1)
    monkeypatch.setattr(file_check, "inspect_all", slow)
    check = listed(tmp_path / "images").later
    check.left_out.unlink()
    check.start()
    deadline = time.monotonic() + 60
    while not check.known and time.monotonic() < deadline:
        time.sleep(0.01)
    check.stop()
    assert 0 < check.known < 80 and "of 80 images are not checked yet" in check.remarks[-1]
    opened = []
    monkeypatch.setattr(
        file_check, "inspect_all", lambda paths: opened.extend(paths) or inspect_all(paths)
    )
    folder(str(tmp_path / "images"))
    assert 0 < len(opened) <= 80 - check.known


def test_a_run_trains_at_once_and_records_what_was_checked(tmp_path, call, capsys):
    paths, run = classes(tmp_path / "images", 20), tmp_path / "run"
    for path in paths[5::20]:
        damaged_in_the_middle(path)
    flags = ("--config", "configs/imagefolder.yaml", "--data.check", "later")
    flags += (f"--data.options.path={tmp_path / 'images'}", "--data.options.skip_bad", "true")
    flags += ("--data.image_size", "16", "--data.batch_size", "8", "--data.workers", "0")
    flags += ("--model.network", "small_cnn", "--trainer.max_epochs", "30")
    assert call("fit", *flags, folder=run) == 0
    data = json.loads((run / "run.json").read_text())["data"]
    assert data["extra"]["check_later"] == {"files": 40, "checked": 40, "bad": 2}
    assert sum("05.jpg is damaged" in line for line in capsys.readouterr().out.splitlines()) >= 2
    assert "2 of 40 images left out" in data["remarks"][-1]
    assert call("test", "--run", str(run)) == 0
    with_check = call("fit", "--run", str(run), "--trainer.max_epochs", "31", "--data.check", "now")
    assert with_check == 2 and "data.check was later, is now" in capsys.readouterr().err


def test_flags_are_shared_with_other_processes_and_without_a_temporary_folder(
    tmp_path, monkeypatch
):
    first = LeftOut(5)
    second = pickle.loads(pickle.dumps(first))
    first.unlink()
    second.flags[3] = 1
    assert first.flags.tolist() == [0, 0, 0, 1, 0]
    assert not pickle.loads(pickle.dumps(first)).flags.any()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    alone = LeftOut(3)
    child = multiprocessing.get_context("fork").Process(target=alone.flags.fill, args=(1,))
    child.start()
    child.join()
    assert alone.flags.tolist() == [1, 1, 1]
    alone.unlink()
