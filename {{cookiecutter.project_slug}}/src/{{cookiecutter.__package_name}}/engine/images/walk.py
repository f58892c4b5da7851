"""Finding the image files below a folder: each once, and none that the system has put there."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from .names import join_names

_KNOWN = """.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .avif .avifs .bmp .dib .gif .tif .tiff .ppm
    .pgm .pbm .pnm .pfm .jp2 .j2k .jpc .jpf .jpx .j2c .tga .icb .vda .vst .pcx .dcx .ico .cur .icns
    .dds .psd .qoi .sgi .rgba .ras .xbm .xpm"""
# Pillow opens these too, but other files have the same extensions: a look at the content decides.
_UNSURE = """.rgb .bw .im .iim .fit .fits .fli .flc .pcd .pxr .msp .gbr .blp .ftc .ftu .spider
    .img"""
# What NAS, macOS, Windows and Linux put beside files. Hidden names need no mention.
_SIDE_FOLDERS = """@eaDir #recycle #snapshot @recycle @recently-snapshot @tmp @sharesnap @__thumb
    @transcode ~snapshot __MACOSX $RECYCLE.BIN lost+found"""
_SIDE_FILES = "Thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini Picasa.ini"

EXTENSIONS = frozenset(_KNOWN.split()) | {".npy"}
UNSURE = frozenset(_UNSURE.split())
SIDE_FOLDERS = frozenset(_SIDE_FOLDERS.lower().split()) | {
    "system volume information",
    "network trash folder",
    "temporary items",
}
SIDE_FILES = frozenset(_SIDE_FILES.lower().split()) | {"icon\r"}


@dataclass
class PassedOver:
    """What was found beside the images."""

    others: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    side: list[Path] = field(default_factory=list)

    def remarks(self) -> Iterator[str]:
        """Yield a line for each kind of what was passed over."""
        if self.others:
            kinds = Counter(path.suffix.lower() or "no extension" for path in self.others)
            counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(8))
            total, names = len(self.others), join_names(self.others)
            yield f"{total} ignored (location or extension; {counts}): {names}"
        if self.links:
            yield (
                f"{len(self.links)} links passed over, which lead back up or to what is read"
                f" already: {join_names(self.links)}"
            )
        if self.side:
            yield f"{len(self.side)} folders of the system passed over: {join_names(self.side)}"


def is_side(name: str) -> bool:
    """Return whether a name is hidden, or of a file or folder that a system puts beside others."""
    return name.startswith(".") or name.lower() in SIDE_FOLDERS or name.lower() in SIDE_FILES


def subfolders(root: Path, passed: PassedOver | None = None) -> list[Path]:
    """Return the folders in a folder, and links to folders, without hidden ones, sorted."""
    found = sorted(path for path in root.iterdir() if path.is_dir())
    if passed:
        passed.side += [p for p in found if is_side(p.name) and not p.name.startswith(".")]
    return [path for path in found if not is_side(path.name)]


def loose_files(root: Path) -> list[Path]:
    """Return the files directly in a folder, without hidden ones and those of the system."""
    return sorted(p for p in root.iterdir() if not is_side(p.name) and not p.is_dir())


def is_image(path: str | Path) -> bool:
    """Return whether a file is taken for an image: by its extension, or by its content."""
    extension = _extension(str(path))
    if extension in UNSURE:
        try:
            with Image.open(path) as image:
                return image.format != "EPS"
        except Exception:  # decoders raise exceptions of many types
            return False
    return extension in EXTENSIONS


def images_below(top: Path, passed: PassedOver) -> list[Path]:
    """Return the images in a folder and all below it, each once, in the order of their paths.

    Links to files and folders are followed, unless they lead back up, or to what is read anyway.
    """
    walk = _Walk(top, passed)
    images = list(walk.images(str(top)))
    if not walk.links:
        return images
    read = {_identity(path) for path in images if str(path) not in walk.links}
    once = list[Path]()
    for path in images:
        if str(path) in walk.links:
            target = _identity(path)
            if target and target in read:
                passed.links.append(path)
                continue
            read.add(target)
        once.append(path)
    return once


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and the number of the file that a path leads to, or None if to none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Walk:
    """A walk through one class's folder; `links` are the paths of images that are links."""

    def __init__(self, top: Path, passed: PassedOver) -> None:
        self.top, self.passed = os.path.realpath(top), passed
        self.links, self.linked = set[str](), set[str]()  # images, folders

    def images(self, place: str, by_link: bool = False) -> Iterator[Path]:
        """Yield the images of a folder, then those of its folders; `by_link` if a link led here."""
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        folders = list[os.DirEntry]()
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _extension(entry.name) in EXTENSIONS and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            elif _is_folder(entry):
                folders.append(entry)
            elif not is_side(entry.name):
                yield from self._unusual(entry)
        for entry in folders:
            if is_side(entry.name):
                self.passed.side.append(Path(entry))
            elif self._is_new(entry, place, by_link):
                yield from self.images(entry.path, by_link or entry.is_symlink())

    def _unusual(self, entry: os.DirEntry) -> Iterator[Path]:
        """Yield the path of a file if it is an image, though a link or of an unusual extension.

        A link that leads nowhere is an image, so that it is reported.
        """
        link = entry.is_symlink()
        readable = link or entry.is_file()  # a pipe would never end
        if readable and is_image(entry.path) and (not link or not _is_special(Path(entry))):
            if link:
                self.links.add(entry.path)
            yield Path(entry)
        else:
            self.passed.others.append(Path(entry))

    def _is_new(self, entry: os.DirEntry, place: str, by_link: bool) -> bool:
        """Return whether to read a folder; those that links lead to only once, and none above."""
        if not by_link and not entry.is_symlink():
            return True
        target, here = os.path.realpath(entry.path), os.path.realpath(place)
        if (
            target in self.linked
            or _inside(target, self.top)
            or _inside(self.top, target)
            or (entry.is_symlink() and _inside(here, target))
        ):
            self.passed.links.append(Path(entry))
            return False
        self.linked.add(target)
        return True


def _extension(name: str) -> str:
    _, dot, extension = name.rpartition(".")
    return dot + extension.lower()


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
