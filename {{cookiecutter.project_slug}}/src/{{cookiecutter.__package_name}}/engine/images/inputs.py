"""The images that `predict` finds in a folder, a list, a table, an archive or a file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract import Facts, Inputs
from ..errors import UserError
from .decoding.decode import ImageDecodeError, opened
from .finding.file_paths import Paths
from .finding.kinds import EXTENSIONS
from .finding.listing import refusal
from .finding.names import FilesOnDisk, as_text, natural
from .finding.passed_over import PassedOver
from .finding.table import SUFFIXES, listed
from .finding.walk import Found, images_below
from .reading.archive import Archive
from .reading.new_files import NewFiles


def find(place: Path, facts: Facts, settings: Mapping[str, Any]) -> Inputs:
    """Return the images at a place, shown as evaluation showed those that the run was trained on.

    Those of a folder, subfolders included, and of a .zip archive are in natural order, named by
    their paths in it. A .txt file lists paths, one a line, and a table has them in its column
    path: in their order, as they are written. They are relative to the file, or else to the working
    directory. A single image is read whatever it is called.

    Raises UserError if there are no images, or none of a list exists.
    """
    archive, remarks = None, list[str]()
    if place.is_dir():
        names = _below(place, remarks)
        paths = Paths.of(place, names)
    elif place.suffix.lower() == ".zip":
        archive = Archive(place)
        names = archive.names
        paths = Paths.of(place, names)
    elif place.suffix.lower() in SUFFIXES:
        names = listed(place)
        paths = _on_disk(place, names)
    else:
        _check_image(place)
        names = [place.name]
        paths = Paths.of(place.parent, names)
    if not names:
        raise refusal(
            f"{place} holds no images. Expected files that end in {' '.join(sorted(EXTENSIONS))}.",
            remarks,
        )
    rows = NewFiles(paths, facts, archive)
    return Inputs(rows, {"path": [*map(as_text, names)]}, rows.problems, tuple(remarks))


def _check_image(file: Path) -> None:
    """Raise UserError if a file is no image, by its first bytes."""
    try:
        with opened(file):
            pass
    except ImageDecodeError as reason:
        raise UserError(
            f"{file} {reason}. Expected an image, a folder of images, a .zip file of them, a .txt"
            " file with a path in each line, or a table with a column path."
        ) from None


def _below(folder: Path, remarks: list[str]) -> list[str]:
    """Return the images in a folder and all below it, relative to it; add lines about the rest."""
    passed, found = PassedOver(), Found()
    images_below(folder, passed, folder, found)
    remarks += passed.remarks()
    return sorted(map(os.fsdecode, bytes(found.text).split(b"\0")[:-1]), key=natural)


def _on_disk(place: Path, names: list[str]) -> Paths:
    """Return the paths of the files that a list or table names. Raises UserError if none exists."""
    disk, found, exists = FilesOnDisk(place.parent), list[str | Path](), False
    for name in names:
        path = disk.find(name)
        here = os.path.lexists(path)
        if not here and os.path.lexists(name):
            path, here = Path(name), True
        found.append(path.absolute())
        exists = exists or here
    if names and not exists:
        raise UserError(
            f"{place}: no file that it lists exists, such as {as_text(names[0])}. Paths"
            f" are relative to {place.parent.absolute()}, or to the working directory."
        )
    return Paths.of(place.parent, found)
