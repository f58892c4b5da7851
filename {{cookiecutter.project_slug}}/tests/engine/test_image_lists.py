"""Lists of any number of files: each file is opened once, a later start reads no image, and a file
takes few bytes. These tests count; they measure no time."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.checking import (
    checked_files,
    file_check,
    inspection,
)
from {{ cookiecutter.__package_name }}.engine.images.checking.file_check import (
    check,
)
from {{ cookiecutter.__package_name }}.engine.images.checking.inspection import (
    Inspected,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.division import (
    LEFT_OUT,
    Contents,
    copies,
    divided,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.file_paths import (
    Paths,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.listing import (
    ImageEntry,
    Listing,
    listing_of,
)
from {{ cookiecutter.__package_name }}.engine.images.folder import (
    folder,
    from_entries,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own."""
    place = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """The files that are inspected, in any order."""
    paths: list[Path] = []

    def inspect_all(some):
        paths.extend(Path(os.fsdecode(path)) for path in some)
        return inspection.inspect_all(some)

    monkeypatch.setattr(file_check, "inspect_all", inspect_all)
    return paths


def small(path: Path, number: int) -> Path:
    """Write a tiny image; no two numbers give the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array([[[number >> 16 & 255, number >> 8 & 255, number & 255]]], np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def classes(root: Path, each: int) -> list[Path]:
    names = [(name, i) for name in ("cat", "horse") for i in range(each)]
    return [small(root / name / f"{i}.png", 1000 * len(name) + i) for name, i in names]


def listed(paths: list[Path], root: Path) -> Listing:
    return listing_of((ImageEntry(path, path.parent.name, None) for path in paths), root)


def verdicts(checked: checked_files.CheckedFiles) -> list[Inspected]:
    return [checked.verdicts[number] for number in checked.found]


def test_paths_are_returned_as_they_were_given(tmp_path):
    names = ["a", "b/c d", "/else/where.png", "é\n\udcff", "x" * 300]
    paths = Paths.of(tmp_path, names)
    assert [paths[i] for i in range(5)] == [tmp_path / name for name in names]
    some = paths.take(np.array([4, 1]))
    assert [some[0], some[1]] == [tmp_path / names[4], tmp_path / names[1]]
    assert some.text is paths.text and len(some) == 2
    assert len(Paths.of(tmp_path, [])) == 0


def test_paths_are_found_again_by_their_hashes():
    names = [f"{i:x}" * (i % 40 + 1) for i in range(70_000)]  # several mebibytes
    paths = Paths.of("", names)
    assert paths.hashes().tolist() == [hash(name.encode()) for name in names]


def test_a_later_start_opens_no_image_and_writes_nothing(tmp_path, cache, opened):
    classes(tmp_path / "images", 40)
    first = folder(str(tmp_path / "images"))
    assert len(opened) == 80
    stored = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    second = folder(str(tmp_path / "images"))
    assert len(opened) == 80 and second.fingerprint == first.fingerprint
    assert stored == {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert len(stored) == 1


def test_only_files_that_were_changed_or_added_are_opened_again(tmp_path, opened):
    paths = classes(tmp_path / "images", 6)
    folder(str(tmp_path / "images"))
    opened.clear()
    small(paths[3], 777_777)
    os.utime(paths[5], ns=(1, 1))
    added = small(tmp_path / "images" / "cat" / "00.png", 888_888)
    paths[8].unlink()
    splits = folder(str(tmp_path / "images"))
    assert sorted(opened) == sorted([paths[3], paths[5], added])
    shutil.rmtree(tmp_path / "cache")
    assert folder(str(tmp_path / "images")).fingerprint == splits.fingerprint
    opened.clear()
    paths[3].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 12 images can't be used:\n.*3\.png is not an image"):
        folder(str(tmp_path / "images"))
    assert opened == [paths[3]]


def test_a_file_replaced_by_one_of_the_same_size_is_opened_again(tmp_path, opened):
    """Also if the list has no other change, so that only the time of modification tells."""
    paths = [tmp_path / "images" / f"{i}.bmp" for i in range(3)]
    for number, path in enumerate(paths):
        small(path, number)
    listing = listed(paths, tmp_path)
    before = check(listing, tmp_path)
    opened.clear()
    size, changed = paths[1].stat().st_size, paths[1].stat().st_mtime_ns
    os.utime(small(paths[1], 99), ns=(changed + 10**9, changed + 10**9))
    assert paths[1].stat().st_size == size
    after = check(listed(paths, tmp_path), tmp_path)
    assert opened == [paths[1]]
    assert (before.sha256 != after.sha256).any(1).tolist() == [False, True, False]


def test_a_table_and_a_source_of_ones_own_are_opened_once_too(tmp_path, opened):
    paths = classes(tmp_path / "images", 10)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((path, path.parent.name) for path in reversed(paths))]
        )
    first = folder(str(tmp_path / "list.csv"))
    own = [ImageEntry(path, "ab"[i % 2], None) for i, path in enumerate(paths)]
    second = from_entries(own, tmp_path / "own")
    assert len(opened) == 40
    assert folder(str(tmp_path / "list.csv")).fingerprint == first.fingerprint
    assert from_entries(own, tmp_path / "own").fingerprint == second.fingerprint
    assert len(opened) == 40


def test_a_listed_image_takes_less_than_its_path_and_100_bytes(tmp_path, cache):
    paths = classes(tmp_path / "images", 100)
    splits = folder(str(tmp_path / "images"))
    text = sum(len(os.fsencode(path.relative_to(tmp_path / "images"))) + 1 for path in paths)
    files = [splits.train, splits.val, splits.test]
    shared = {id(part.paths.text): part.paths.text for part in files}
    arrays = [a for part in files for a in (part.paths.starts, part.paths.lengths, part.sha256)]
    held = sum(array.nbytes for array in [*arrays, *shared.values()])
    held += sum(part.labels.nbytes for part in files)
    assert held == text + 200 * (8 + 4 + 32 + 8)
    assert sum(path.stat().st_size for path in cache.rglob("*.npz")) < text + 200 * 60 + 3000


def test_processes_that_start_together_check_once(tmp_path, opened):
    listing = listed(classes(tmp_path / "images", 20), tmp_path)
    threads = [threading.Thread(target=check, args=(listing, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 40


def test_what_an_interrupted_check_knows_is_kept(tmp_path, opened, monkeypatch):
    paths = classes(tmp_path / "images", 20)
    monkeypatch.setattr(file_check, "AT_ONCE", 8)
    add = checked_files.CheckedFiles.add

    def interrupted(self, images, seen):
        if 24 in images:
            raise KeyboardInterrupt
        add(self, images, seen)

    with monkeypatch.context() as patch:
        patch.setattr(checked_files.CheckedFiles, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check(listed(paths, tmp_path), tmp_path)
    again = opened.copy()
    opened.clear()
    checked = check(listed(paths, tmp_path), tmp_path)
    assert sorted(opened) == sorted(paths[24:]) and len(again) < 40
    assert all(seen == Inspected("") for seen in verdicts(checked))


def test_ctrl_c_ends_a_check_at_once_and_the_next_start_goes_on(tmp_path, cache, opened):
    package = file_check.__name__.split(".")[0]
    classes(tmp_path / "images", 300)
    started = f"import sys; from {package}.engine.images.checking import file_check, inspection\n"
    started += f"from {package}.engine.images import folder\n"
    started += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    started += "import time; file_check.AT_ONCE, file_check.SAVE_EVERY = 10, 0.0\n"
    started += "real = inspection.inspect_all\n"
    started += "file_check.inspect_all = lambda some: time.sleep(0.02 * len(some)) or real(some)\n"
    started += "folder.folder(sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-c", started, str(tmp_path / "images")],
        env=dict(os.environ),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list(cache.rglob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode and b"KeyboardInterrupt" in said
    folder(str(tmp_path / "images"))
    assert 0 < len(opened) < 600


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_small_files_are_inspected_by_one_thread_and_others_by_several(
    seconds, tmp_path, monkeypatch
):
    threads = dict[int, int]()

    def counted(paths):
        time.sleep(seconds * len(paths))
        threads[threading.get_ident()] = threads.get(threading.get_ident(), 0) + len(paths)
        return [Inspected("ab" * 32)] * len(paths)

    monkeypatch.setattr(file_check, "inspect_all", counted)
    monkeypatch.setattr(file_check, "QUICK", 0.005)
    monkeypatch.setattr(file_check, "PART_FILES", 4)
    monkeypatch.setattr(file_check, "this_machine", lambda: SimpleNamespace(cores=3))
    checked = check(listed(classes(tmp_path / "images", 20), tmp_path), tmp_path)
    assert checked.known == sum(threads.values()) == 40
    assert len(threads) == (4 if seconds else 1)  # one for the files that are timed


def test_a_file_that_cannot_be_read_is_tried_again(tmp_path, opened):
    paths = classes(tmp_path / "images", 3)
    missing = tmp_path / "images" / "cat" / "later.png"
    for _ in range(2):
        checked = check(listed([*paths, missing], tmp_path), tmp_path)
        assert verdicts(checked)[-1].problem == "can't be read: No such file or directory"
    assert opened.count(missing) == 2 and len(opened) == 8
    small(missing, 5)
    assert verdicts(check(listed([*paths, missing], tmp_path), tmp_path))[-1].problem is None


def garbage(file: Path) -> None:
    file.write_bytes(b"no arrays " * 500)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(b"sha256.npy") + 150] ^= 4
    file.write_bytes(content)


def of_another_version(file: Path) -> None:
    np.savez(file, paths=np.arange(3))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = [garbage, cut_short, one_bit, of_another_version, a_folder, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_made_again(damage, tmp_path, cache, opened):
    listing = listed(classes(tmp_path / "images", 4), tmp_path)
    first = check(listing, tmp_path)
    (stored,) = cache.rglob("*.npz")
    damage(stored)
    second = check(listing, tmp_path)
    assert len(opened) == 16
    assert second.sha256.tolist() == first.sha256.tolist() and first.sha256.any()
    check(listing, tmp_path)
    assert len(opened) == (24 if damage is a_folder else 16)


def test_a_list_without_any_file_known_before_is_read_as_unknown(tmp_path):
    listing = listed(classes(tmp_path / "images", 2), tmp_path)
    checked, unchanged = checked_files.read(tmp_path / "nothing.npz", listing)
    assert not unchanged and checked.unchecked().tolist() == [0, 1, 2, 3]


def test_a_later_start_asks_the_system_once_about_each_file(tmp_path, monkeypatch):
    classes(tmp_path / "images", 30)
    (tmp_path / "images" / "cat" / "notes.txt").touch()
    folder(str(tmp_path / "images"))
    asked, status = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: asked.append(path) or status(path, **how))
    folder(str(tmp_path / "images"))
    names = [name for name in asked if str(name).endswith((".png", ".txt"))]
    assert len(names) == 61 and len(set(names)) == 31  # both classes have the same names


def test_a_table_with_more_columns_is_read_once(tmp_path, monkeypatch):
    paths = classes(tmp_path / "images", 12)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = [
            (i, path, "me", path.parent.name, (i % 3 and "train") or "dev", i / 7)
            for i, path in enumerate(paths)
        ]
        csv.writer(file).writerows([("id", "path", "who", "label", "phase", "score"), *rows])
    read_rows, reader = [], csv.reader

    class Counting:
        def __init__(self, *given, **how) -> None:
            self.rows = reader(*given, **how)

        line_num = property(lambda self: self.rows.line_num)

        def __iter__(self):
            return self

        def __next__(self):
            read_rows.append(next(self.rows))
            return read_rows[-1]

    monkeypatch.setattr(csv, "reader", Counting)
    splits = folder(str(tmp_path / "list.csv"))
    assert list(splits.rows.values()) == [16, 8, 0]
    assert sum(row[0].isdigit() for row in read_rows) == 24
    assert splits.remarks[0].endswith("columns not used: 'id', 'score', 'who'")


def plain_copies(contents, labels, splits, usable) -> list[int]:
    """The rule of `copies`, image by image."""
    found = []
    for i, content in enumerate(contents):
        same = [j for j, other in enumerate(contents) if other == content and usable[j]]
        kept = max(same, key=lambda j: max(splits[j], 0)) if same else -1
        if not usable[i]:
            found.append(-1)
        elif len({labels[j] for j in same}) > 1:
            found.append(next(j for j in same if labels[j] != labels[i]))
        else:
            found.append(kept if splits[i] != splits[kept] else -1)
    return found


def plain_division(contents, labels, splits, usable, shares) -> list[int]:
    """The rule of `divided`, image by image."""
    chosen = {}
    for label in set(labels):
        of = zip(contents, labels, splits, usable, strict=True)
        mine = sorted({c for c, each, split, use in of if each == label and split < 1 and use})
        start = 0
        for name, share in shares.items():
            count = max(round(len(mine) * share), 1) if share and len(mine) > 2 else 0
            number = ("train", "val", "test").index(name)
            chosen |= {(label, c): number for c in mine[start : start + count]}
            start += count
    each = zip(contents, labels, splits, usable, strict=True)
    return [
        LEFT_OUT if not use else split if split > 0 else chosen.get((label, content), 0)
        for content, label, split, use in each
    ]


@pytest.mark.parametrize("seed", range(60))
def test_images_are_divided_by_the_rule_for_one_image(seed):
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 40))
    digests = np.zeros((n, 32), np.uint8)
    digests[:, 0] = draw.integers(0, 3 + 9 * (seed % 2), n)  # many copies, or fewer
    digests[:, 20 if seed % 3 else 1] += draw.integers(0, 3, n).astype(np.uint8)
    labels = draw.integers(0, 3, n).astype(np.int32)
    splits = draw.integers(-1, 3 if seed % 5 else 0, n).astype(np.int8)
    usable = draw.random(n) < 0.9
    contents = [digest.tobytes() for digest in digests]
    given = labels.tolist(), splits.tolist(), usable.tolist()
    found = copies(Contents(digests), labels, splits, usable)
    assert found.tolist() == plain_copies(contents, *given)
    shares = {"test": float(draw.choice([0, 0.1, 0.4])), "val": float(draw.choice([0, 0.2, 0.5]))}
    result = divided(Contents(digests), labels, splits, usable, shares)
    assert result.tolist() == plain_division(contents, *given, shares)


def test_a_known_file_that_can_no_longer_be_read_is_not_remembered_as_it_was(tmp_path, opened):
    paths = classes(tmp_path / "images", 3)
    check(listed(paths, tmp_path), tmp_path)
    paths[2].unlink()
    for _ in range(2):
        checked = check(listed(paths, tmp_path), tmp_path)
        assert not checked.sha256[2].any() and checked.sha256[1].any()
        assert verdicts(checked)[2].problem == "can't be read: No such file or directory"
    assert opened.count(paths[2]) == 3


def test_a_test_split_of_unknown_classes_leaves_the_list_whole(tmp_path, opened):
    root = tmp_path / "images"
    classes(root / "train", 5)
    classes(root / "Val", 4)
    for i in range(3):
        small(root / "test" / "images" / f"{i}.png", 90_000 + i)
    for _ in range(2):
        splits = folder(str(root), skip_bad=True)
        parts = splits.train, splits.val, splits.test
        found = [[part[i].relative_to(root).parts[0] for i in range(part.n)] for part in parts]
        assert found[1:] == [["Val"] * 8, []] and set(found[0]) == {"train"}
        assert "the test split holds 3 images of 'images', no class of train" in splits.remarks[0]
        assert len(opened) == 18
