"""Your own images: folders named after their classes, or a CSV file that lists them."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .checked import check
from .splits import Files, Splits, located

SPLITS = ("train", "val", "test")
ALSO_CALLED = {"valid": "val", "validation": "val"}
EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
MOST_NAMED = 20  # files in a message


@dataclass(frozen=True, slots=True)
class Found:
    """One image as it was found; `split` is None where nobody has divided the images yet."""

    path: Path
    label: str
    split: str | None
    sha256: str = ""


def folder(
    path: str, val_share: float = 0.1, test_share: float = 0.1, skip_bad: bool = False
) -> Splits:
    """Return the images of a folder, or of a CSV file with the columns path, label[, split].

    A folder holds one folder a class, or train/ (and val/, test/) that do. Without val the given
    share of every class is taken from the training images, and without any split a share for the
    test too: by content, so that it depends neither on names nor on a seed, and copies of an image
    stay together. The path leads from the working directory, or from the project's folder.

    Raises UserError if there are no images, or a class has none to train on, and, unless `skip_bad`
    leaves them out, for files that can't be used and images in two splits or in two classes.
    """
    place = located(path)
    remarks: list[str] = []
    found = list(_from_csv(place)) if place.is_file() else _from_folders(place, remarks)
    if not found:
        names = " ".join(sorted(EXTENSIONS))
        raise UserError(
            f"{place} holds no images. Expected a folder a class, with files in them ({names}), or"
            " train/, val/ and test/ that hold such folders."
        )
    given = {image.split for image in found}
    shares = {
        "test": 0.0 if given - {None} else test_share,
        "val": 0.0 if "val" in given else val_share,
    }
    found = list(_divided(_checked(found, skip_bad, remarks), shares))
    classes = tuple(sorted({image.label for image in found}))
    parts = [[image for image in found if image.split == split] for split in SPLITS]
    untrained, unmeasured = (set(classes) - {image.label for image in part} for part in parts[:2])
    if untrained:
        raise UserError(
            f"{place} has no training images of {_named(untrained)}. Add some, or remove"
            f" {'this class' if len(untrained) == 1 else 'these classes'}."
        )
    if unmeasured:
        remarks.append(f"no validation images of {_named(unmeasured)}: not measured on them")
    return Splits(classes, *(_files(part, classes) for part in parts), remarks=tuple(remarks))


def _from_folders(root: Path, remarks: list[str]) -> list[Found]:
    """Find the images of every class folder; a class may lie in folders of its own below that."""
    tops = {ALSO_CALLED.get(top.name, top.name): top for top in _folders(root)}
    roots = {name: top for name, top in tops.items() if name in SPLITS} if "train" in tops else {}
    found: list[Found] = []
    others: list[Path] = []
    empty: list[Path] = []
    for split, top in roots.items() or [(None, root)]:
        for label in _folders(top):
            files = list(_files_below(label))
            images = [path for path in files if path.suffix.lower() in EXTENSIONS]
            found += [Found(path, label.name, split) for path in images]
            others += [path for path in files if path.suffix.lower() not in EXTENSIONS]
            empty += [] if images else [label]
    if empty:
        raise UserError(
            f"{_named(empty)}: a class's folder without an image. Add images, or remove it."
        )
    if others:
        remarks.append(f"{len(others)} files passed over, by their extension: {_named(others)}")
    return found


def _from_csv(table: Path) -> Iterator[Found]:
    if table.suffix.lower() != ".csv":
        raise UserError(f"{table} is neither a folder nor a .csv file with path,label[,split].")
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise UserError(f"{table} begins with {rows.fieldnames}; expected path,label[,split].")
        for row in rows:
            where, split = f"{table}, line {rows.line_num}", row.get("split") or None
            split = ALSO_CALLED.get(split or "", split)
            if not row["path"] or not row["label"]:
                raise UserError(f"{where}: expected a path and a label.")
            if split not in (*SPLITS, None):
                raise UserError(f"{where}: the split is '{split}'; expected train, val or test.")
            yield Found(table.parent / row["path"], row["label"], split)


def _checked(found: list[Found], skip_bad: bool, remarks: list[str]) -> list[Found]:
    """Return the images that can be used, with their digests; stop at others, or leave them out."""
    results = check([image.path for image in found])
    problems = {i: problem for i, (_, problem) in enumerate(results) if problem}
    found = [replace(image, sha256=sha) for image, (sha, _) in zip(found, results, strict=True)]
    by_content: dict[str, list[int]] = defaultdict(list)
    for i, image in enumerate(found):
        if i not in problems:
            by_content[image.sha256].append(i)
    for same in by_content.values():
        kept = max(same, key=lambda i: SPLITS.index(found[i].split or "train"))
        for i in same:
            if len({found[j].label for j in same}) > 1:
                other = next(j for j in same if found[j].label != found[i].label)
                problems[i] = f"is the same image as {_printable(found[other].path)}"
            elif found[i].split != found[kept].split:
                problems[i] = f"is also in {found[kept].split}: {_printable(found[kept].path)}"
    if not problems:
        return found
    lines = [f"  {_printable(found[i].path)} {problems[i]}" for i in sorted(problems)]
    text = "\n".join(lines[:MOST_NAMED] + ["  …"] * (len(lines) > MOST_NAMED))
    if not skip_bad:
        raise UserError(
            f"{len(lines)} of {len(found)} images can't be used:\n{text}\n"
            "Mend or remove them, or leave them out with --data.options.skip_bad true."
        )
    remarks.append(f"{len(lines)} of {len(found)} images left out:\n{text}")
    return [image for i, image in enumerate(found) if i not in problems]


def _divided(found: list[Found], shares: dict[str, float]) -> Iterator[Found]:
    """Give a split to every image that has none, in each class by the order of the digests."""
    contents: dict[str, set[str]] = defaultdict(set)
    for image in found:
        if image.split in (None, "train"):
            contents[image.label].add(image.sha256)
    chosen: dict[str, str] = {}
    for digests in contents.values():
        ordered, start = sorted(digests), 0
        for split, share in shares.items():
            count = max(round(len(ordered) * share), 1) if share and len(ordered) > 2 else 0
            chosen |= dict.fromkeys(ordered[start : start + count], split)
            start += count
    for image in found:
        is_open = image.split in (None, "train")
        yield replace(image, split=chosen.get(image.sha256, "train")) if is_open else image


def _files(images: list[Found], classes: tuple[str, ...]) -> Files:
    number = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([number[image.label] for image in images], dtype=torch.int64)
    paths = np.array([os.fsencode(image.path) for image in images], dtype=bytes)
    return Files(paths, labels, tuple(image.sha256 for image in images))


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_below(root: Path) -> Iterator[Path]:
    """Find the files that are not hidden, in the order of their paths."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _printable(path: Path) -> str:
    """Return a path that any terminal can show: names may hold bytes that are no characters."""
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return str(shown).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def _named(names: Iterable) -> str:
    some = [_printable(name) if isinstance(name, Path) else repr(name) for name in sorted(names)]
    return ", ".join(some[:MOST_NAMED]) + (", …" if len(some) > MOST_NAMED else "")
