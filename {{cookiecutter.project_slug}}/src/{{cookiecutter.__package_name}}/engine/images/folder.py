"""Your own images: folders named after their classes, or a CSV file that lists them."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from ..paths import resolve_path
from .depth import depth_of, too_dark
from .file_check import check
from .inspection import Inspected
from .listing import ImageEntry, from_folders, refusal
from .names import MAX_LISTED, SPLITS, join_names, printable
from .splits import Files, ImageSplits
from .table import from_table
from .walk import EXTENSIONS


def folder(
    path: str,
    val_share: float = 0.1,
    test_share: float = 0.1,
    skip_bad: bool = False,
    bits: int | None = None,
) -> ImageSplits:
    """Return the images of a folder, or of a CSV file with the columns path, label[, split].

    A folder contains one folder per class, or train/ (and val/, test/) with such folders. Without
    val, `val_share` of each class's training images is used for validation. Without any split,
    `test_share` of them is used for the test too. Images are chosen by their content: the choice
    depends neither on names nor on a seed, and copies of an image stay in one split. `bits` are
    those that 16-bit images use; if unset, as many as their largest value needs.

    Raises UserError if the images can't be trained on. Files that can't be decoded, and images in
    two splits or two classes, raise UserError too, unless `skip_bad` leaves them out.
    """
    place = resolve_path(path)
    remarks: list[str] = []
    found = list(from_table(place, remarks)) if place.is_file() else from_folders(place, remarks)
    if not found:
        raise refusal(
            f"{place} holds no images. Expected one folder per class with files in it"
            f" ({' '.join(sorted(EXTENSIONS))}), or train/, val/ and test/ with such folders.",
            remarks,
        )
    return from_entries(found, place, val_share, test_share, skip_bad, remarks, bits)


def from_entries(
    found: Sequence[ImageEntry],
    place: Path,
    val_share: float = 0.1,
    test_share: float = 0.1,
    skip_bad: bool = False,
    remarks: Sequence[str] = (),
    bits: int | None = None,
) -> ImageSplits:
    """Return the images of a list, as `folder` does; `place` names the list in errors.

    Raises UserError in the same cases.
    """
    if not found:
        raise UserError(f"{place} lists no images: add some.")
    remarks = list(remarks)
    if not 0 <= val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        raise UserError(
            f"data.options: val_share is {val_share} and test_share {test_share}; expected shares,"
            " below 1 together."
        )
    given = {image.split for image in found}
    shares = {"test": (given == {None}) * test_share, "val": ("val" not in given) * val_share}
    usable, bits = _checked(found, place, skip_bad, remarks, bits)
    remarks += _of_division(found, shares)
    found = list(_divided(usable, shares))
    classes = tuple(sorted({image.label for image in found}))
    parts = [[image for image in found if image.split == split] for split in SPLITS]
    untrained, unvalidated = (set(classes) - {image.label for image in part} for part in parts[:2])
    if len(classes) < 2:
        raise refusal(
            f"{place} has only the class {join_names(classes)}: at least two are needed.", remarks
        )
    if not parts[1]:
        raise refusal(f"{place} leaves no validation images: add val/, or set val_share.", remarks)
    if untrained:
        raise refusal(
            f"{place} has no training images of {join_names(untrained)}, but images of them in"
            f" another split. The classes in train are {join_names(set(classes) - untrained)}:"
            " rename the others as in train, add training images, or remove them.",
            remarks,
        )
    if unvalidated:
        remarks.append(
            f"no validation images of {join_names(unvalidated)}: validation leaves them out"
        )
    files = [_files(part, classes, bits) for part in parts]
    return ImageSplits(*files, classes=classes, remarks=tuple(remarks))


def _of_division(found: Sequence[ImageEntry], shares: dict[str, float]) -> Iterator[str]:
    """Yield a line for each way in which given splits are completed."""
    unassigned = sum(image.split is None for image in found)
    if unassigned == len(found):
        return
    if unassigned:
        yield f"{unassigned} of {len(found)} images have no split: they are taken for train"
    if shares["val"]:
        yield f"no validation split is given: {shares['val']:.0%} of train is used for it"


def _checked(
    found: Sequence[ImageEntry],
    place: Path,
    skip_bad: bool,
    remarks: list[str],
    given: int | None,
) -> tuple[list[ImageEntry], int]:
    """Return the usable images with their digests, and the bits that 16-bit images use.

    Raises UserError for images that can't be used, or leaves them out. It raises UserError too if
    that leaves a class without images.
    """
    results = check([image.path for image in found])
    found = [replace(image, sha256=seen.sha256) for image, seen in zip(found, results, strict=True)]
    problems = {i: seen.problem for i, seen in enumerate(results) if seen.problem}
    bits = _depth(found, results, problems, remarks, given)
    _find_copies(found, problems)
    noted: dict[str, list[Path]] = defaultdict(list)
    for image, seen in zip(found, results, strict=True):
        if seen.note:
            noted[seen.note].append(image.path)
    remarks += [f"{len(of)} images have {note}: {join_names(of)}" for note, of in noted.items()]
    if not problems:
        return found, bits
    lines = [f"  {printable(found[i].path)} {problems[i]}" for i in sorted(problems)]
    text = "\n".join(lines[:MAX_LISTED] + ["  …"] * (len(lines) > MAX_LISTED))
    if not skip_bad:
        raise UserError(
            f"{len(lines)} of {len(found)} images can't be used:\n{text}\n"
            "Fix or remove them, or leave them out with --data.options.skip_bad true."
        )
    kept = [image for i, image in enumerate(found) if i not in problems]
    emptied = {image.label for image in found} - {image.label for image in kept}
    if emptied:
        raise UserError(
            f"{place}: {len(lines)} of {len(found)} images can't be used, and without them"
            f" {join_names(emptied)} would have none. Fix them, or remove the class:\n{text}"
        )
    remarks.append(f"{len(lines)} of {len(found)} images left out:\n{text}")
    return kept, bits


def _depth(
    found: Sequence[ImageEntry],
    results: Sequence[Inspected],
    problems: dict[int, str],
    remarks: list[str],
    given: int | None,
) -> int:
    """Return the bits that the 16-bit images use; add those that are nearly black to `problems`.

    Raises UserError if the bits that are given hold fewer values than the images have.
    """
    peaks = {i: seen.peak for i, seen in enumerate(results) if seen.peak and i not in problems}
    largest = max(peaks.values(), default=0)
    bits = depth_of(peaks.values()) if given is None else given
    if bits not in range(8, 17) or largest >= 2**bits:
        raise UserError(
            f"data.options.bits is {bits}, and the largest value of the 16-bit images is {largest};"
            f" expected {max(largest.bit_length(), 8)} to 16."
        )
    problems |= {i: reason for i, peak in peaks.items() if (reason := too_dark(peak, bits))}
    dark = [found[i].path for i, peak in peaks.items() if peak < 2**14 and i not in problems]
    if peaks and bits < 16:
        remarks.append(
            f"{len(peaks)} images have 16 bits and no value above {largest}: they are read as"
            f" {bits} bits, in training, evaluation and the service"
        )
    elif dark:
        remarks.append(
            f"{len(dark)} of {len(peaks)} images of 16 bits have no value above {2**14 - 1}, others"
            f" {largest}; all are read with one scale, so these are dark: {join_names(dark)}"
        )
    return bits


def _find_copies(found: Sequence[ImageEntry], problems: dict[int, str]) -> None:
    """Add to `problems` the images that are in two classes, or in two splits."""
    by_content: dict[str, list[int]] = defaultdict(list)
    for i, image in enumerate(found):
        if i not in problems:
            by_content[image.sha256].append(i)
    for same in by_content.values():
        kept = max(same, key=lambda i: SPLITS.index(found[i].split or "train"))
        for i in same:
            if len({found[j].label for j in same}) > 1:
                other = next(found[j] for j in same if found[j].label != found[i].label)
                problems[i] = f"is the same image as {printable(other.path)}, of '{other.label}'"
            elif found[i].split != found[kept].split:
                problems[i] = f"is also in {found[kept].split}: {printable(found[kept].path)}"


def _divided(found: list[ImageEntry], shares: dict[str, float]) -> Iterator[ImageEntry]:
    """Assign a split to every image without one, in each class in the order of the digests."""
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
        assignable = image.split in (None, "train")
        yield replace(image, split=chosen.get(image.sha256, "train")) if assignable else image


def _files(images: list[ImageEntry], classes: tuple[str, ...], bits: int) -> Files:
    number = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([number[image.label] for image in images], dtype=torch.int64)
    paths = np.array([os.fsencode(image.path) for image in images], dtype=bytes)
    digests = np.array([image.sha256 for image in images], dtype=bytes)
    return Files(paths, labels, digests, bits)
