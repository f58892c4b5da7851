"""Listing the images of folders, with their classes and, if given, splits."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .names import as_text, join_names, split_of
from .walk import PassedOver, images_below, is_image, loose_files, subfolders


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image as it was found; `split` is None if the folder or table doesn't give one."""

    path: Path
    label: str
    split: str | None
    sha256: str = ""


def refusal(message: str, remarks: Iterable[str]) -> UserError:
    """Return an error with the remarks that may explain it."""
    return UserError("\n".join([message, *(f"note: {remark}" for remark in remarks)]))


def from_folders(root: Path, remarks: list[str]) -> list[ImageEntry]:
    """Return the images of every class folder and its subfolders.

    What is passed over is added to `remarks`. Raises UserError if a class has no images, or the
    splits are ambiguous or lack train.
    """
    passed, found, empty = PassedOver(), list[ImageEntry](), list[Path]()
    folders = subfolders(root, passed)
    splits = _split_folders(root, folders, remarks)
    passed.others += loose_files(root)
    for given, top in splits.items() or [(None, root)]:
        passed.others += loose_files(top) if given else []
        for place in subfolders(top, passed) if given else folders:
            images = images_below(place, passed)
            found += [ImageEntry(path, as_text(place.name), given) for path in images]
            empty += [] if images else [place]
    remarks += passed.remarks()
    if empty:
        raise refusal(
            f"{join_names(empty)}: a class's folder without an image. Fill or remove it.", remarks
        )
    return _of_known_classes(found, remarks)


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


def _of_known_classes(found: list[ImageEntry], remarks: list[str]) -> list[ImageEntry]:
    """Leave out a split none of whose folders is a class of train: their names are no labels."""
    labels = {split: {e.label for e in found if e.split == split} for split in ("train", "test")}
    if not labels["test"] or labels["test"] & labels["train"]:
        return found
    left_out = [entry for entry in found if entry.split == "test"]
    remarks.append(
        f"the test split holds {len(left_out)} images of {join_names(labels['test'])}, no class of"
        " train: without labels they are not used"
    )
    return [entry for entry in found if entry.split != "test"]
