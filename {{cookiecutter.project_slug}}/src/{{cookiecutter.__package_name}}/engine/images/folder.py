"""Your own images: folders named after their classes, or a CSV file that lists them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from ..errors import UserError
from ..model.objectives import ObjectiveName
from ..paths import resolve_path
from ..plurals import plural
from .checking.file_check import check
from .checking.usable import only_usable
from .finding.class_folders import from_folders
from .finding.division import NO_SPLIT, Contents, divided
from .finding.kinds import EXTENSIONS
from .finding.listing import ImageEntry, Listing, listing_of, refusal
from .finding.names import SPLITS, join_names
from .finding.table import from_table
from .finding.targets import classes_in, doubts_of_classes, read_labels, targets_of
from .later import LaterCheck, by_names, is_later
from .splits import Files, ImageSplits


def folder(
    path: str,
    val_share: float = 0.1,
    test_share: float = 0.1,
    skip_bad: bool = False,
    bits: int | None = None,
    objective: ObjectiveName = "classes",
    channels: int = 3,
) -> ImageSplits:
    """Return the images of a folder, or of a CSV file with the columns path, label[, split].

    A folder contains one folder per class, or train/ (and val/, test/) with such folders. Without
    val, `val_share` of each class's training images is used for validation. Without any split,
    `test_share` of them is used for the test too. Images are chosen by their content: the choice
    depends neither on names nor on a seed, and copies of an image stay in one split. `bits` are
    those that 16-bit images use; if unset, as many as their largest value needs. `objective` is
    what an image has: one of the classes; any number of labels, separated by ";"; or a number, if
    it is numbers. `channels` are those that each image is read with: data.channels.

    Raises UserError if the images can't be trained on. Files that can't be decoded, and images in
    two splits or two classes, raise UserError too, unless `skip_bad` leaves them out.
    """
    place = resolve_path(path)
    remarks: list[str] = []
    if objective not in get_args(ObjectiveName):
        expected = join_names(get_args(ObjectiveName))
        raise UserError(f"data.options.objective is {objective}; expected one of {expected}.")
    is_table = place.is_file()
    found = from_table(place, remarks, objective) if is_table else from_folders(place, remarks)
    if not found.n:
        raise refusal(
            f"{place} holds no images in class folders. Expected one folder per class with files in"
            f" it ({' '.join(sorted(EXTENSIONS))}), or train/, val/ and test/ with such folders.",
            remarks,
        )
    if is_table and objective == "classes":
        remarks += doubts_of_classes(found.names)
    found = read_labels(found, objective)
    return from_listing(found, place, val_share, test_share, skip_bad, remarks, bits, channels)


def from_entries(
    found: Sequence[ImageEntry],
    place: Path,
    val_share: float = 0.1,
    test_share: float = 0.1,
    skip_bad: bool = False,
    remarks: Sequence[str] = (),
    bits: int | None = None,
    objective: ObjectiveName = "classes",
    channels: int = 3,
) -> ImageSplits:
    """Return the images of a list, as `folder` does; `place` names the list in errors.

    Raises UserError in the same cases.
    """
    if not found:
        raise UserError(f"{place} lists no images: add some.")
    listing = read_labels(listing_of(found, place.absolute().parent), objective)
    return from_listing(listing, place, val_share, test_share, skip_bad, remarks, bits, channels)


def from_listing(
    found: Listing,
    place: Path,
    val_share: float = 0.1,
    test_share: float = 0.1,
    skip_bad: bool = False,
    remarks: Sequence[str] = (),
    bits: int | None = None,
    channels: int = 3,
) -> ImageSplits:
    """Return the images of a list in arrays, as `from_entries` does."""
    remarks = list(remarks)
    if not 0 <= val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        raise UserError(
            f"data.options: val_share is {val_share} and test_share {test_share}; expected shares,"
            " below 1 together."
        )
    checked = by_names(found, channels) if is_later() else check(found, place)
    contents = Contents(checked.sha256)
    usable, bits = only_usable(found, checked, contents, place, skip_bad, remarks, bits, channels)
    unassigned = int((found.splits == NO_SPLIT).sum())
    shares = {
        "test": (unassigned == found.n) * test_share,
        "val": (not (found.splits == SPLITS.index("val")).any()) * val_share,
    }
    remarks += _of_division(unassigned, found.n, shares)
    if is_later():
        by = ", so they are split by name, not by content" if any(shares.values()) else ""
        remarks.append(f"images are checked while training (--data.check later){by}")
    splits = divided(contents, found.groups, found.splits, usable, shares)
    classes = _classes(found, splits, place, remarks)
    targets = targets_of(found.names, classes, found.objective)
    later = LaterCheck(found, splits, place, skip_bad, bits, channels) if is_later() else None
    files = []
    for split in range(len(SPLITS)):
        part = np.flatnonzero(splits == split)
        labels = targets[found.labels[part]]
        unchecked = later.of(part) if later else None
        paths, digests = found.paths.take(part), checked.sha256[part]
        files.append(Files(paths, labels, digests, bits, channels, unchecked))
    return ImageSplits(*files, classes=classes, remarks=tuple(remarks), later=later)


def _of_division(unassigned: int, n: int, shares: dict[str, float]) -> Iterator[str]:
    """Yield a line for each way in which given splits are completed."""
    if unassigned == n:
        return
    if unassigned:
        have, they = plural(unassigned, "has", "have"), plural(unassigned, "it is", "they are")
        yield f"{unassigned} of {n} images {have} no split: {they} taken for train"
    if shares["val"]:
        yield f"no validation split is given: {shares['val']:.0%} of train is used for it"


def _classes(
    found: Listing, splits: np.ndarray, place: Path, remarks: list[str]
) -> tuple[str, ...]:
    """Return the classes, sorted; add those without validation images to `remarks`.

    Numbers have none. Raises UserError if there is only one, or training or validation lack images.
    """
    train, val, test = (
        {
            name
            for i in np.unique(found.labels[splits == split])
            for name in classes_in(found.names[i], found.objective)
        }
        for split in range(len(SPLITS))
    )
    classes = tuple(sorted(train | val | test))
    if found.objective == "classes" and len(classes) < 2:
        raise refusal(
            f"{place} has only the class {join_names(classes)}: at least two are needed.", remarks
        )
    has_numbers = found.objective == "numbers"
    validated = (splits == SPLITS.index("val")).any() if has_numbers else bool(val)
    if not validated:
        labelled = " with a label" if found.objective == "labels" else ""
        raise refusal(
            f"{place} leaves no validation images{labelled}: add val/, or set val_share.", remarks
        )
    if untrained := set(classes) - train:
        raise refusal(
            f"{place} has no training images of {join_names(untrained)}, but images of them in"
            f" another split. The classes in train are {join_names(set(classes) - untrained)}:"
            " rename the others as in train, add training images, or remove them.",
            remarks,
        )
    if unvalidated := set(classes) - val:
        n = len(unvalidated)
        remarks.append(
            f"the {plural(n, 'class', 'classes')} {join_names(unvalidated)}"
            f" {plural(n, 'has', 'have')} no validation images, so validation does not measure"
            f" {plural(n, 'it', 'them')}"
        )
    return classes
