"""What names mean: of splits, of classes, and of files that other systems wrote."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath

SPLITS = ("train", "val", "test")
MAX_LISTED = 20  # names in a message
_SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "publictest"),
    "test": ("test", "testing", "tst", "holdout", "heldout", "privatetest"),
}
_SPLIT_OF = {name: split for split, names in _SPLIT_NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """Return train, val or test for one of their usual names, such as "Valid" or "hold-out"."""
    plain = re.sub(r"[\s_.-]+", "", name).lower()
    return _SPLIT_OF.get(plain) or _SPLIT_OF.get(re.sub(r"(set|data|split)$", "", plain))


def as_text(name: str) -> str:
    """Return a name as text that can be printed and compared.

    Bytes that are not UTF-8 are read as Windows' cp1252, and letters get their composed form (NFC).
    """
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogateescape")
        try:
            name = raw.decode("cp1252")
        except UnicodeDecodeError:  # five bytes have no meaning there
            name = raw.decode("latin-1")
    return unicodedata.normalize("NFC", name)


class FilesOnDisk:
    """Finds the files that a table names, though it spells them as another system does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, dict[Path, dict[str, str]]()

    def find(self, cell: str) -> Path:
        """Return the path of the file that a cell names, or as it is written if there is none.

        Letters may have the other Unicode form or another encoding, and folders may be separated by
        backslashes.
        """
        written = self.folder / cell
        if (cell.isascii() and "\\" not in cell) or os.path.lexists(written):
            return written
        for spelling in (cell, cell.replace("\\", "/")):
            if found := self._find(PurePath(spelling)):
                return found
        return written

    def _find(self, path: PurePath) -> Path | None:
        place = self.folder
        for part in path.parts:
            if os.path.lexists(place / part):
                place /= part
                continue
            if place not in self.names:
                inside = sorted(place.iterdir()) if place.is_dir() else []
                self.names[place] = {as_text(path.name): path.name for path in inside}
            name = self.names[place].get(as_text(part))
            if name is None:
                return None
            place /= name
        return place


def natural(path: str) -> tuple:
    """Return what paths are sorted by if numbers in their names count: a2 comes before a10."""
    parts = (re.split(r"([0-9]+)", part) for part in path.split("/"))
    return [[int(w) if i % 2 else w for i, w in enumerate(words)] for words in parts], path


def printable(path: Path) -> str:
    """Return a path that any terminal can show: names may contain bytes that are not UTF-8."""
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return str(shown).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def join_names(names: Iterable) -> str:
    """Return names in one line, separated by commas, sorted and shortened."""
    some = [printable(name) if isinstance(name, Path) else repr(name) for name in sorted(names)]
    return ", ".join(some[:MAX_LISTED]) + (", …" if len(some) > MAX_LISTED else "")
