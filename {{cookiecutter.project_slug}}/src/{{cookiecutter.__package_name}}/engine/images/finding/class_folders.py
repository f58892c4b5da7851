"""Listing the images of class folders with, if the folder is divided so, their splits."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...plurals import counted, plural
from .file_paths import Paths
from .kinds import is_image
from .listing import Listing, refusal, split_index
from .names import SPLITS, as_text, join_names, split_of
from .passed_over import PassedOver
from .walk import Found, images_below, loose_files, subfolders


class Part(NamedTuple):
    """A class's folder: the number of its images, its label and its split."""

    images: int
    label: str
    split: str | None


def from_folders(root: Path, remarks: list[str]) -> Listing:
    """Return the images of every class folder and its subfolders.

    What is passed over is added to `remarks`. Raises UserError if a class has no images, or the
    splits are ambiguous or lack train.
    """
    passed, found, parts, empty = PassedOver(), Found(), list[Part](), list[Path]()
    folders = subfolders(root, passed)
    splits = _split_folders(root, folders, remarks)
    passed.add(loose_files(root))
    for given, top in splits.items() or [(None, root)]:
        if given:
            passed.add(loose_files(top))
        for place in subfolders(top, passed) if given else folders:
            count = images_below(place, passed, root, found)
            parts.append(Part(count, as_text(place.name), given))
            empty += [] if count else [place]
    remarks += passed.remarks()
    if empty:
        raise refusal(
            f"{join_names(empty)}: a class's folder without an image. Fill or remove it.", remarks
        )
    return _listing(_of_known_classes(parts, found, remarks), found, root)


def _split_folders(root: Path, folders: list[Path], remarks: list[str]) -> dict[str, Path]:
    """Return the folders that are splits, or {} if all folders are classes.

    A split's folder holds folders of classes. If one called train holds images itself, and so do
    folders with other names, it is a class. Raises UserError if it can't be told.
    """
    named = {folder: split for folder in folders if (split := split_of(folder.name))}
    others = [folder for folder in folders if folder not in named]
    classes = [folder for folder in others if _count_images(folder)] if named else []
    flat = [f for f in named if not subfolders(f) or (classes and _count_images(f))]
    if named and len(flat) == len(named):
        if not classes:
            raise UserError(
                f"no folders of classes in {join_names(flat)}, so no image has a label. Expected"
                f" {flat[0].name}/<class>/<image>, or {root.name}/<class>/<image>."
            )
        remarks.append(f"taken for classes, not for splits: {join_names(flat)}")
        return {}
    splits = dict[str, Path]()
    for folder, split in named.items():
        if folder in flat:
            count = _count_images(folder)
            remarks.append(
                f"{join_names([folder])} holds {counted(count, 'image')}, but no folders of"
                f" classes: without labels, {plural(count, 'it is', 'they are')} not used"
            )
        elif split in splits:
            raise UserError(f"{root} holds both {splits[split].name} and {folder.name}: keep one.")
        else:
            splits[split] = folder
    if splits and others:
        remarks.append(
            f"{join_names(splits.values())} taken for splits; not used beside them:"
            f" {join_names(others)}"
        )
    if splits and "train" not in splits:
        raise refusal(
            f"{root} holds {join_names(splits.values())}, but no folder train with folders of"
            " classes: add it. A class with the name of a split needs another name.",
            remarks,
        )
    return splits


def _count_images(folder: Path) -> int:
    """Return the number of images directly in a folder."""
    return sum(map(is_image, loose_files(folder)))


def _of_known_classes(parts: list[Part], found: Found, remarks: list[str]) -> list[Part]:
    """Leave out a test split none of whose folders is a class of train: they are no labels."""
    labels = {name: {part.label for part in parts if part.split == name} for name in SPLITS}
    if not labels["test"] or labels["test"] & labels["train"]:
        return parts
    counts = [part.images for part in parts]
    is_test = [part.split == "test" for part in parts]
    found.leave_out(np.repeat(is_test, counts))
    n = int(np.dot(is_test, counts))
    remarks.append(
        f"the test split holds {counted(n, 'image')} of {join_names(labels['test'])}, no class of"
        f" train: without labels, {plural(n, 'it is', 'they are')} not used"
    )
    return [part for part in parts if part.split != "test"]


def _listing(parts: list[Part], found: Found, root: Path) -> Listing:
    numbers, counts = dict[str, int](), [part.images for part in parts]
    each = [numbers.setdefault(part.label, len(numbers)) for part in parts]
    labels = np.repeat(np.array(each, np.int32), counts)
    splits = np.repeat(np.array([split_index(part.split) for part in parts], np.int8), counts)
    stats = found.stats.sizes, found.stats.changed
    sizes, changed = (np.frombuffer(column, np.int64) for column in stats)
    return Listing(Paths.split(root, found.text), tuple(numbers), labels, splits, sizes, changed)
