"""A list of image files, as it was found: in arrays, so that a million files take little."""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...model.objectives import ObjectiveName
from .file_paths import Paths
from .names import SPLITS

UNKNOWN_SIZE = -1  # of a file whose size can't be read
NO_SPLIT = -1


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image; `split` is None if the folder or table doesn't give one."""

    path: Path
    label: str
    split: str | None


@dataclass(frozen=True)
class Listing:
    """n images. `labels` are indices in `names`, int32 (n,); `splits` in SPLITS, or -1, int8 (n,).

    `sizes` in bytes and `changed`, the times of modification in ns, are int64 (n,). `objective` is
    what `names` say: see targets.py.
    """

    paths: Paths
    names: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    sizes: np.ndarray
    changed: np.ndarray
    objective: ObjectiveName = field(default="classes", kw_only=True)

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def groups(self) -> np.ndarray:
        """Numbers of the groups that are divided in the same way, (n,): classes, or all images."""
        return self.labels if self.objective == "classes" else np.zeros_like(self.labels)


@dataclass
class Stats:
    """The sizes and times of modification of files, in the order in which they are added."""

    sizes: array = field(default_factory=lambda: array("q"))
    changed: array = field(default_factory=lambda: array("q"))

    def add(self, status: os.stat_result | None) -> None:
        """Add a file; None if its status can't be read, as of a link that leads nowhere."""
        self.sizes.append(UNKNOWN_SIZE if status is None else status.st_size)
        self.changed.append(0 if status is None else status.st_mtime_ns)

    def take(self, kept: np.ndarray) -> "Stats":
        """Return those of the files for which `kept`, bool (n,), is true."""
        columns = (np.array(column)[kept] for column in (self.sizes, self.changed))
        return Stats(*(array("q", column.tobytes()) for column in columns))


def status_of(path: str | Path, folder: int | None = None) -> os.stat_result | None:
    """Return the status of a file, in an open folder if one is given; None if there is none."""
    try:
        return os.stat(path, dir_fd=folder)
    except OSError:
        return None


def split_index(split: str | None) -> int:
    return NO_SPLIT if split is None else SPLITS.index(split)


def listing_of(entries: Iterable[ImageEntry], root: Path) -> Listing:
    """Return a list of images with their files' sizes and times; most are below `root`."""
    stats, numbers, here = Stats(), dict[str, int](), Path.cwd()
    paths, labels, splits = list[str](), array("i"), array("b")
    above = f"{root}{os.sep}"
    for entry in entries:
        path = os.fspath(entry.path)
        if not path.startswith(os.sep):
            path = f"{here}{os.sep}{path}"
        paths.append(path.removeprefix(above))
        stats.add(status_of(path))
        labels.append(numbers.setdefault(entry.label, len(numbers)))
        splits.append(split_index(entry.split))
    return Listing(Paths.of(root, paths), tuple(numbers), *arrays(labels, splits, stats))


def arrays(labels: array, splits: array, stats: Stats) -> tuple[np.ndarray, ...]:
    """Return these columns of a listing without copying them."""
    columns = (labels, np.int32), (splits, np.int8), (stats.sizes, "i8"), (stats.changed, "i8")
    return tuple(np.frombuffer(column, kind) for column, kind in columns)


def refusal(message: str, remarks: Sequence[str]) -> UserError:
    """Return an error with the remarks that may explain it."""
    return UserError("\n".join([message, *(f"note: {remark}" for remark in remarks)]))
