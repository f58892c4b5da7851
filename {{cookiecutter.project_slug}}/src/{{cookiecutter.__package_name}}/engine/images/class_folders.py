"""Listing the images of class folders with, if the folder is divided so, their splits."""

from pathlib import Path

import numpy as np

from ..errors import UserError
from .file_paths import Paths
from .listing import Listing, listing_of, refusal, split_index
from .names import as_text, join_names, split_of
from .walk import Found, PassedOver, images_below, is_image, loose_files, subfolders

Part = tuple[Found, str, str | None]  # a folder's images, its label and its split


def from_folders(root: Path, remarks: list[str]) -> Listing:
    """Return the images of every class folder and its subfolders.

    What is passed over is added to `remarks`. Raises UserError if a class has no images, or the
    splits are ambiguous or lack train.
    """
    passed, parts, empty = PassedOver(), list[Part](), list[Path]()
    folders = subfolders(root, passed)
    splits = _split_folders(root, folders, remarks)
    passed.add(loose_files(root))
    for given, top in splits.items() or [(None, root)]:
        if given:
            passed.add(loose_files(top))
        for place in subfolders(top, passed) if given else folders:
            found = images_below(place, passed, root)
            parts.append((found, as_text(place.name), given))
            empty += [] if found.n else [place]
    remarks += passed.remarks()
    if empty:
        raise refusal(
            f"{join_names(empty)}: a class's folder without an image. Fill or remove it.", remarks
        )
    return _joined(_of_known_classes(parts, remarks), root)


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
                f"{join_names(flat)} hold no folders of classes, so no image has a label. Expected"
                f" {flat[0].name}/<class>/<image>, or {root.name}/<class>/<image>."
            )
        remarks.append(f"taken for classes, not for splits: {join_names(flat)}")
        return {}
    splits = dict[str, Path]()
    for folder, split in named.items():
        if folder in flat:
            count = _count_images(folder)
            remarks.append(
                f"{join_names([folder])} holds {count} images, but no folders of classes: without"
                " labels they are not used"
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


def _of_known_classes(parts: list[Part], remarks: list[str]) -> list[Part]:
    """Leave out a test split none of whose folders is a class of train: they are no labels."""
    labels = {name: {label for _, label, of in parts if of == name} for name in ("train", "test")}
    if not labels["test"] or labels["test"] & labels["train"]:
        return parts
    left_out = sum(found.n for found, _, split in parts if split == "test")
    remarks.append(
        f"the test split holds {left_out} images of {join_names(labels['test'])}, no class of"
        " train: without labels they are not used"
    )
    return [part for part in parts if part[2] != "test"]


def _joined(parts: list[Part], root: Path) -> Listing:
    numbers = dict[str, int]()
    each = [(numbers.setdefault(label, len(numbers)), split_index(of)) for _, label, of in parts]
    counts = [found.n for found, _, _ in parts]
    if not parts:
        return listing_of([], root)
    labels, splits = (
        np.repeat(np.array(column, kind), counts)
        for column, kind in zip(zip(*each, strict=True), (np.int32, np.int8), strict=True)
    )
    text, sizes, changed = (
        np.concatenate([np.frombuffer(getattr(found, name), kind) for found, _, _ in parts])
        for name, kind in (("text", np.uint8), ("sizes", np.int64), ("changed", np.int64))
    )
    return Listing(Paths.split(root, text), tuple(numbers), labels, splits, sizes, changed)
