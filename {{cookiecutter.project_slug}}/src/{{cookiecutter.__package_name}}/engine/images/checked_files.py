"""What is known of image files: one file of arrays for each list, in the user's cache folder.

All in it can be found out again. So whatever is wrong with it, or with the folder, never ends a
run: it is not used, and replaced.
"""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from .file_paths import Paths
from .inspection import Inspected
from .listing import Listing

UNCHECKED = -1


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
        self.numbers: dict[Inspected, int] = {}

    def add(self, index: int, seen: Inspected) -> None:
        """Keep what `inspect` returned for a file."""
        verdict = seen._replace(sha256="")
        number = self.numbers.setdefault(verdict, len(self.verdicts))
        if number == len(self.verdicts):
            self.verdicts.append(verdict)
        if seen.sha256:
            self.sha256[index] = np.frombuffer(bytes.fromhex(seen.sha256), np.uint8)
        self.found[index] = number
        self.known += 1

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
    checked = CheckedFiles(listing.n)
    try:
        # zip's checksums are compared as the arrays are read
        with np.load(file, allow_pickle=False) as stored:
            text, sizes, changed, found = (
                stored[name] for name in ("text", "sizes", "changed", "found")
            )
            verdicts = [Inspected(*each) for each in json.loads(stored["verdicts"].tobytes())]
            sha256 = stored["sha256"]
    except Exception:  # missing, damaged in any way, or from another version
        return checked, False
    checked.verdicts = verdicts
    checked.numbers = {verdict: number for number, verdict in enumerate(verdicts)}
    unchanged = np.array_equal(text, listing.paths.text)
    if unchanged:
        known = (sizes == listing.sizes) & (changed == listing.changed)
        checked.sha256, checked.found = sha256, np.where(known, found, np.int32(UNCHECKED))
    else:
        old = _positions(Paths.split("", text), listing.paths)
        known = (old >= 0) & (sizes[old] == listing.sizes) & (changed[old] == listing.changed)
        checked.sha256[known], checked.found[known] = sha256[old[known]], found[old[known]]
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
