"""Which images lie in a folder or stand in a table, each with its class and perhaps its split."""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

SPLITS = ("train", "val", "test")
ALSO_CALLED = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
MOST_NAMED = 20  # files in a message


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image as it was found; `split` is None where nobody has divided the images yet."""

    path: Path
    label: str
    split: str | None
    sha256: str = ""


def from_folders(root: Path, remarks: list[str]) -> list[ImageEntry]:
    """Find the images of every class folder; a class may lie in folders of its own below that."""
    roots: dict[str, Path] = {}
    for top in _folders(root):
        split = ALSO_CALLED.get(top.name.lower(), top.name.lower())
        if split in roots:
            raise UserError(f"{root} holds both {roots[split].name} and {top.name}: keep one.")
        roots |= {split: top} if split in SPLITS else {}
    if roots and "train" not in roots:
        raise UserError(f"{root} holds {named(roots.values())}, but no folder train.")
    tops: list[tuple[str | None, Path]] = [*roots.items()] or [(None, root)]
    others = [path for _, top in tops for path in top.glob("[!.]*") if path.is_file()]
    others += [top for top in _folders(root) if top not in roots.values()] if roots else []
    found, empty = list[ImageEntry](), list[Path]()
    for given, top in tops:
        for label in _folders(top):
            files = list(_files_below(label))
            images = [path for path in files if path.suffix.lower() in EXTENSIONS]
            found += [ImageEntry(path, label.name, given) for path in images]
            others += [path for path in files if path.suffix.lower() not in EXTENSIONS]
            empty += [] if images else [label]
    if empty:
        raise UserError(f"{named(empty)}: a class's folder without an image. Fill or remove it.")
    if others:
        remarks.append(f"{len(others)} passed over, by their place or extension: {named(others)}")
    return found


def from_csv(table: Path) -> Iterator[ImageEntry]:
    """Read the rows of a table with the columns path, label and, if there is one, split."""
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
            split = ALSO_CALLED.get(split, split)
            if not row.get("path") or not row.get("label"):
                raise UserError(f"{where}: expected a path and a label.")
            if split not in (*SPLITS, ""):
                raise UserError(f"{where}: the split is '{split}'; expected train, val, test.")
            yield ImageEntry(table.parent / row["path"], row["label"], split or None)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_below(root: Path) -> Iterator[Path]:
    """Find the files that are not hidden, in the order of their paths."""
    for place, folders, names in os.walk(root, onerror=_fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _fail(error: OSError) -> None:
    raise error


def printable(path: Path) -> str:
    """Return a path that any terminal can show: names may hold bytes that are no characters."""
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return str(shown).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def named(names: Iterable) -> str:
    some = [printable(name) if isinstance(name, Path) else repr(name) for name in sorted(names)]
    return ", ".join(some[:MOST_NAMED]) + (", …" if len(some) > MOST_NAMED else "")
