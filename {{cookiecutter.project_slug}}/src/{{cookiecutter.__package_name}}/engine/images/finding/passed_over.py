"""What is found beside the images, and the lines about it."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path

from .kinds import extension_of
from .names import MAX_LISTED, join_names


class Others:
    """Files that are no images: their number by extension, and the first names."""

    def __init__(self) -> None:
        self.kinds, self.names = Counter[str](), list[str]()

    def add(self, path: str) -> None:
        self.kinds[extension_of(path.rpartition(os.sep)[2]) or "no extension"] += 1
        self.names.append(path)
        if len(self.names) > 100 * MAX_LISTED:
            self.names = nsmallest(MAX_LISTED + 1, self.names, _parts)


@dataclass
class PassedOver:
    """What was found beside the images."""

    others: Others = field(default_factory=Others)
    links: list[Path] = field(default_factory=list)
    side: list[Path] = field(default_factory=list)

    def add(self, others: Iterable[str]) -> None:
        """Add the paths of files that are no images, or not where images are expected."""
        for path in others:
            self.others.add(path)

    def remarks(self) -> Iterator[str]:
        """Yield a line for each kind of what was passed over."""
        if total := self.others.kinds.total():
            counts = ", ".join(f"{n} {kind}" for kind, n in self.others.kinds.most_common(8))
            names = join_names(map(Path, self.others.names))
            files = _counted(total, "file")
            yield f"{files} ignored by place or extension ({counts}): {names}"
        if self.links:
            yield (
                f"{_counted(len(self.links), 'link')} ignored (they lead back up, or to"
                f" what is read already): {join_names(self.links)}"
            )
        if self.side:
            folders = _counted(len(self.side), "folder")
            yield f"{folders} of the system ignored: {join_names(self.side)}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _parts(path: str) -> list[str]:
    """Return what paths are sorted by, as Path sorts them."""
    return path.split("/")
