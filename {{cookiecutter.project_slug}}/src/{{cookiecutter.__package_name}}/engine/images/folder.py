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
from .file_check import check
from .listing import (
    EXTENSIONS,
    MOST_NAMED,
    SPLITS,
    ImageEntry,
    from_csv,
    from_folders,
    named,
    printable,
)
from .splits import Files, ImageSplits


def folder(
    path: str, val_share: float = 0.1, test_share: float = 0.1, skip_bad: bool = False
) -> ImageSplits:
    """Return the images of a folder, or of a CSV file with the columns path, label[, split].

    A folder holds one folder a class, or train/ (and val/, test/) that do. Without val the given
    share of every class is taken from the training images, and without any split a share for the
    test too: by content, so that it depends neither on names nor on a seed, and copies of an image
    stay together.

    Raises UserError for a set that can't be learned from, and, unless `skip_bad` leaves them out,
    for files that can't be used and images in two splits or in two classes.
    """
    place = resolve_path(path)
    remarks: list[str] = []
    found = list(from_csv(place)) if place.is_file() else from_folders(place, remarks)
    if not found:
        raise UserError(
            f"{place} holds no images. Expected a folder a class with files in it"
            f" ({' '.join(sorted(EXTENSIONS))}), or train/, val/ and test/ that hold such folders."
        )
    return from_entries(found, place, val_share, test_share, skip_bad, remarks)


def from_entries(
    found: Sequence[ImageEntry],
    place: Path,
    val_share: float = 0.1,
    test_share: float = 0.1,
    skip_bad: bool = False,
    remarks: Sequence[str] = (),
) -> ImageSplits:
    """Return the images of a list, as `folder` does; errors call it by its `place`.

    Raises UserError as `folder` does.
    """
    if not found:
        raise UserError(f"{place} names no images.")
    remarks = list(remarks)
    if not 0 <= val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        raise UserError(f"val_share {val_share} and test_share {test_share}: shares, below 1.")
    given = {image.split for image in found}
    shares = {"test": (given == {None}) * test_share, "val": ("val" not in given) * val_share}
    found = list(_divided(_checked(found, skip_bad, remarks), shares))
    classes = tuple(sorted({image.label for image in found}))
    parts = [[image for image in found if image.split == split] for split in SPLITS]
    untrained, unmeasured = (set(classes) - {image.label for image in part} for part in parts[:2])
    if len(classes) < 2:
        raise UserError(f"{place} has only the class {named(classes)}: at least two are needed.")
    if not parts[1]:
        raise UserError(f"{place} leaves no validation images: add val/, or set val_share.")
    if untrained:
        raise UserError(f"{place} has no training images of {named(untrained)}: add, or remove it.")
    if unmeasured:
        remarks.append(f"no validation images of {named(unmeasured)}: not measured on them")
    files = [_files(part, classes) for part in parts]
    return ImageSplits(*files, classes=classes, remarks=tuple(remarks))


def _checked(found: Sequence[ImageEntry], skip_bad: bool, remarks: list[str]) -> list[ImageEntry]:
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
                other = next(found[j] for j in same if found[j].label != found[i].label)
                problems[i] = f"is the same image as {printable(other.path)}, of '{other.label}'"
            elif found[i].split != found[kept].split:
                problems[i] = f"is also in {found[kept].split}: {printable(found[kept].path)}"
    if not problems:
        return found
    lines = [f"  {printable(found[i].path)} {problems[i]}" for i in sorted(problems)]
    text = "\n".join(lines[:MOST_NAMED] + ["  …"] * (len(lines) > MOST_NAMED))
    if not skip_bad:
        raise UserError(
            f"{len(lines)} of {len(found)} images can't be used:\n{text}\n"
            "Mend or remove them, or leave them out with --data.options.skip_bad true."
        )
    remarks.append(f"{len(lines)} of {len(found)} images left out:\n{text}")
    return [image for i, image in enumerate(found) if i not in problems]


def _divided(found: list[ImageEntry], shares: dict[str, float]) -> Iterator[ImageEntry]:
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


def _files(images: list[ImageEntry], classes: tuple[str, ...]) -> Files:
    number = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([number[image.label] for image in images], dtype=torch.int64)
    paths = np.array([os.fsencode(image.path) for image in images], dtype=bytes)
    return Files(paths, labels, tuple(image.sha256 for image in images))
