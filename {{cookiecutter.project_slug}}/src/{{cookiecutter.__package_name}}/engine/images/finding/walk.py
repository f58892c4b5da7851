"""Finding the image files below a folder: each once, and none that the system has put there."""

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

import numpy as np

from .file_paths import joined
from .kinds import EXTENSIONS, extension_of, is_image, is_side
from .listing import Stats, status_of
from .passed_over import PassedOver


@dataclass
class Found:
    """The images of all folders so far: `text` as in Paths, and what the system says of each."""

    text: bytearray = field(default_factory=bytearray)
    stats: Stats = field(default_factory=Stats)

    def add(self, paths: list[str], stats: Stats) -> None:
        self.text += joined(paths)
        self.stats.sizes += stats.sizes
        self.stats.changed += stats.changed

    def leave_out(self, images: np.ndarray) -> None:
        """Leave out the images for which `images`, bool (n,), is true."""
        lines = bytes(self.text).split(b"\0")[:-1]
        kept = (line + b"\0" for line, out in zip(lines, images, strict=True) if not out)
        self.text, self.stats = bytearray().join(kept), self.stats.take(~images)


def subfolders(root: Path, passed: PassedOver | None = None) -> list[Path]:
    """Return the folders in a folder, and links to folders, without hidden ones, sorted."""
    with os.scandir(root) as entries:
        found = sorted(Path(entry) for entry in entries if _is_folder(entry))
    if passed:
        passed.side += [p for p in found if is_side(p.name) and not p.name.startswith(".")]
    return [path for path in found if not is_side(path.name)]


def loose_files(root: Path) -> list[str]:
    """Return the files directly in a folder, without hidden ones and those of the system."""
    with os.scandir(root) as entries:
        return sorted(e.path for e in entries if not is_side(e.name) and not _is_folder(e))


def images_below(top: Path, passed: PassedOver, root: Path, found: Found) -> int:
    """Add the images in a folder and all below it, each once, in the order of their paths.

    Return their number. Paths are relative to `root`, which is above `top`. Links to files and
    folders are followed, unless they lead back up, or to what is read anyway.
    """
    walk = _Walk(top, passed, root)
    walk.read(str(top))
    if len(walk.links):
        walk.leave_out_copies()
    found.add(walk.paths, walk.stats)
    return len(walk.paths)


class _Walk:
    """A walk through one class's folder.

    Of each image there is its path and its status. `links` are the indices of those that are links,
    `targets` the device and the number of the file that each leads to, or 0 if to none.
    """

    def __init__(self, top: Path, passed: PassedOver, root: Path) -> None:
        self.top, self.passed, self.root = os.path.realpath(top), passed, root
        self.paths, self.stats = list[str](), Stats()
        self.links, self.targets = array("q"), array("Q")  # of images
        self.linked = set[str]()  # the folders that links lead to

    def read(self, place: str, by_link: bool = False) -> None:
        """Add the images of a folder, then those of its folders; `by_link` if a link led here."""
        below, folders = f"{place}{os.sep}", list[tuple[str, bool]]()
        prefix = below.removeprefix(f"{self.root}{os.sep}")
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 (of what is open)
                if name[0] == ".":
                    continue
                status = _own_status(name, folder)
                if (status is None or S_ISREG(status.st_mode)) and extension_of(name) in EXTENSIONS:
                    self.paths.append(prefix + name)
                    self.stats.add(status)
                    continue
                link = status is not None and S_ISLNK(status.st_mode)
                status = status_of(name, folder) if link else status
                kind = status.st_mode if status else 0
                dangling = link and status is None  # an image, so that it is reported
                if S_ISDIR(kind):
                    folders.append((name, link))
                elif is_side(name):
                    continue
                elif (dangling or S_ISREG(kind)) and is_image(below + name):
                    self._add_unusual(prefix + name, status, link)
                else:  # also a pipe, which would never end
                    self.passed.others.add(below + name)
        finally:
            os.close(folder)
        for name, link in folders:
            if is_side(name):
                self.passed.side.append(Path(below + name))
            elif self._is_new(below + name, link, place, by_link):
                self.read(below + name, by_link or link)

    def _add_unusual(self, path: str, status: os.stat_result | None, link: bool) -> None:
        if link:
            self.links.append(len(self.paths))
            self.targets.extend((status.st_dev, status.st_ino) if status else (0, 0))
        self.paths.append(path)
        self.stats.add(status)

    def leave_out_copies(self) -> None:
        """Leave out the links that lead to a file that is read by its own path or another link."""
        links = np.zeros(len(self.paths), bool)
        links[self.links] = True
        targets = np.zeros((len(self.paths), 2), np.uint64)
        targets[links] = np.array(self.targets).reshape(-1, 2)
        for i in np.flatnonzero(~links):
            status = status_of(self.root / self.paths[i])
            targets[i] = (status.st_dev, status.st_ino) if status else (0, 0)
        order = np.lexsort((links, *targets.T))  # the first of the same file is kept
        same = (targets[order[1:]] == targets[order[:-1]]).all(1)
        copies = np.zeros(len(self.paths), bool)
        copies[order[1:]] = same
        copies &= links & targets.any(1)
        self.passed.links += [self.root / self.paths[i] for i in np.flatnonzero(copies)]
        self.paths = [path for path, copy in zip(self.paths, copies, strict=True) if not copy]
        self.stats = self.stats.take(~copies)

    def _is_new(self, path: str, link: bool, place: str, by_link: bool) -> bool:
        """Return whether to read a folder; those that links lead to only once, and none above."""
        if not by_link and not link:
            return True
        target, here = os.path.realpath(path), os.path.realpath(place)
        if (
            target in self.linked
            or _inside(target, self.top)
            or _inside(self.top, target)
            or (link and _inside(here, target))
        ):
            self.passed.links.append(Path(path))
            return False
        self.linked.add(target)
        return True


def _own_status(name: str, folder: int) -> os.stat_result | None:
    """Return the status of a file, or of a link itself; None if it was removed or is forbidden."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
