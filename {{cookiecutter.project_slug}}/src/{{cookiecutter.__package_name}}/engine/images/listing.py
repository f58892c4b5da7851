"""Listing the images of a folder or a CSV file, with their classes and, if given, splits."""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
MAX_LISTED = 20  # names in a message


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image as it was found; `split` is None if the folder or table doesn't give one."""

    path: Path
    label: str
    split: str | None
    sha256: str = ""


def from_folders(root: Path, remarks: list[str]) -> list[ImageEntry]:
    """Return the images of every class folder and its subfolders; add ignored files to `remarks`.

    Raises UserError if a class has no images, or the splits are ambiguous or lack train.
    """
    roots: dict[str, Path] = {}
    for top in _folders(root):
        split = SPLIT_ALIASES.get(top.name.lower(), top.name.lower())
        if split in roots:
            raise UserError(f"{root} holds both {roots[split].name} and {top.name}: keep one.")
        roots |= {split: top} if split in SPLITS else {}
    if roots and "train" not in roots:
        raise UserError(f"{root} holds {join_names(roots.values())}, but no folder train: add it.")
    tops: list[tuple[str | None, Path]] = [*roots.items()] or [(None, root)]
    ignored = [path for _, top in tops for path in top.glob("[!.]*") if path.is_file()]
    ignored += [top for top in _folders(root) if top not in roots.values()] if roots else []
    found, empty = list[ImageEntry](), list[Path]()
    for given, top in tops:
        for label in _folders(top):
            files = list(_files_below(label))
            images = [path for path in files if path.suffix.lower() in EXTENSIONS]
            found += [ImageEntry(path, label.name, given) for path in images]
            ignored += [path for path in files if path.suffix.lower() not in EXTENSIONS]
            empty += [] if images else [label]
    if empty:
        raise UserError(
            f"{join_names(empty)}: a class's folder without an image. Fill or remove it."
        )
    if ignored:
        remarks.append(f"{len(ignored)} ignored (location or extension): {join_names(ignored)}")
    return found


def from_csv(table: Path) -> Iterator[ImageEntry]:
    """Yield the rows of a CSV file with the columns path, label and, optionally, split.

    Raises UserError if the file or a row is not as expected.
    """
    if table.suffix.lower() != ".csv":
        raise UserError(f"{table} is neither a folder nor a .csv file with path,label[,split].")
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.reader(file)
        columns = [name.strip().lower() for name in next(rows, [])]
        if not {"path", "label"} <= set(columns) or {"set", "subset"} & set(columns):
            raise UserError(f"{table} begins with {columns}; expected path,label[,split].")
        for cells in filter(None, rows):
            row = dict(zip(columns, map(str.strip, cells), strict=False))
            where, split = f"{table}, line {rows.line_num}", row.get("split", "").lower()
            split = SPLIT_ALIASES.get(split, split)
            if not row.get("path") or not row.get("label"):
                raise UserError(f"{where}: expected a path and a label.")
            if split not in (*SPLITS, ""):
                raise UserError(f"{where}: the split is '{split}'; expected train, val, test.")
            yield ImageEntry(table.parent / row["path"], row["label"], split or None)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_below(root: Path) -> Iterator[Path]:
    """Yield the files that are not hidden, in the order of their paths."""
    for place, folders, names in os.walk(root, onerror=_fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _fail(error: OSError) -> None:
    raise error


def printable(path: Path) -> str:
    """Return a path that any terminal can show: names may contain bytes that are not UTF-8."""
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return str(shown).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def join_names(names: Iterable) -> str:
    """Return names in one line, separated by commas, sorted and shortened."""
    some = [printable(name) if isinstance(name, Path) else repr(name) for name in sorted(names)]
    return ", ".join(some[:MAX_LISTED]) + (", …" if len(some) > MAX_LISTED else "")
