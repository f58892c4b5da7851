"""What is known of image files: one file of arrays for each list, in the user's cache folder.

All in it can be found out again. So whatever is wrong with it, or with the folder, never ends a
run: it is not used, and replaced.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..finding.file_paths import Paths
from ..finding.listing import Listing
from .inspection import Inspected

UNCHECKED = -1
UNREAD = "00" * 32  # in place of a digest


class CheckedFiles:
    """The results for each image of a listing, in its order.

    `sha256` is uint8 (n, 32), and zero if a file can't be read. `found` are indices in `verdicts`,
    int32 (n,), or UNCHECKED; a verdict is what `inspect` returns, without the digest. `known` is
    the number of files that are checked.
    """

    def __init__(self, n: int) -> None:
        self.sha256 = np.zeros((n, 32), np.uint8)
        self.found = np.full(n, UNCHECKED, np.int32)
        self.known = 0
        self.verdicts: list[Inspected] = []
        self.numbers: dict[tuple, int] = {}

    def add(self, images: np.ndarray, seen: Sequence[Inspected]) -> None:
        """Keep what `inspect` returned for each of some files."""
        digests = bytes.fromhex("".join(each.sha256 or UNREAD for each in seen))
        self.sha256[images] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        self.found[images] = [self._number(each) for each in seen]
        self.known += len(seen)

    def _number(self, seen: Inspected) -> int:
        """Return the index of a file's verdict, a new one if no file had it yet."""
        verdict = ("", *seen[1:])
        number = self.numbers.setdefault(verdict, len(self.verdicts))
        if number == len(self.verdicts):
            self.verdicts.append(Inspected(*verdict))
        return number

    def unchecked(self) -> np.ndarray:
        """Return the indices of the files that are still to be checked, int64."""
        return np.flatnonzero(self.found == UNCHECKED)

    def save(self, file: Path, listing: Listing) -> None:
        """Replace a file; without a word if the disk doesn't take it.

        A file that could not be read is not remembered: it is tried again.
        """
        unfinished = file.with_suffix(".unfinished")
        unread = ~self.sha256.any(1)
        try:
            with unfinished.open("wb") as output:
                np.savez(
                    output,
                    text=listing.paths.text,
                    sizes=listing.sizes,
                    changed=listing.changed,
                    sha256=self.sha256,
                    found=np.where(unread, np.int32(UNCHECKED), self.found),
                    verdicts=np.frombuffer(json.dumps(self.verdicts).encode(), np.uint8),
                )
            unfinished.replace(file)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()


def read(file: Path, listing: Listing) -> tuple[CheckedFiles, bool]:
    """Return what a file knows of a listing, and whether it holds exactly this.

    A file counts as known if its path, size and time of modification are the same.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:  # which compares zip's checksums
            return _known(stored, listing)
    except Exception:  # missing, damaged in any way, or from another version
        return CheckedFiles(listing.n), False


def _known(stored: Mapping[str, np.ndarray], listing: Listing) -> tuple[CheckedFiles, bool]:
    """Return what stored arrays know of a listing. Each is read only when needed."""
    checked = CheckedFiles(0)
    checked.verdicts = [Inspected(*each) for each in json.loads(stored["verdicts"].tobytes())]
    checked.numbers = {verdict: number for number, verdict in enumerate(checked.verdicts)}
    text = stored["text"]
    unchanged, places = np.array_equal(text, listing.paths.text), None
    if not unchanged:
        places = _positions(Paths.split("", text), listing.paths)
    del text

    def column(name: str) -> np.ndarray:
        return stored[name] if places is None else stored[name][places]

    known = (column("sizes") == listing.sizes) & (column("changed") == listing.changed)
    if places is not None:
        known &= places >= 0
    checked.found = np.where(known, column("found"), np.int32(UNCHECKED))
    checked.sha256 = column("sha256")
    checked.sha256[~known] = 0
    checked.known = listing.n - len(checked.unchecked())
    return checked, unchanged


def _positions(stored: Paths, wanted: Paths) -> np.ndarray:
    """Return where each of the wanted paths is among the stored ones, int64 (n,); -1 if nowhere."""
    if not len(stored) or not len(wanted):
        return np.full(len(wanted), -1)
    there, here = stored.hashes(), wanted.hashes()
    order = there.argsort()
    places = np.searchsorted(there, here, sorter=order).clip(max=len(order) - 1)
    found = order[places]
    return np.where(there[found] == here, found, -1)
