"""Checking image files: each is read and decoded once, and again only after it has changed.

The results are kept in the user's cache folder. If they are deleted, the next run checks the files
again; if a check is interrupted, the next run goes on from there.
"""

import os
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np

from ...hardware import this_machine
from ...hashing import sha256_of
from ...monitor.rate import Rate
from ...paths import cache_folder, exclusive_lock
from ..decoding import decode, jpeg_messages
from ..finding.listing import Listing
from .checked_files import CheckedFiles, read
from .inspection import Inspected, inspect_all

AT_ONCE = 2000  # files of a batch
FIRST = 3  # files of a batch that are timed
QUICK = 0.25e-3  # seconds: if a file takes no more, threads wait for each other
PART_FILES, PART_BYTES = 64, 1 << 20  # the most that a thread inspects before it gets others
SAVE_EVERY = 60.0  # seconds: the most that is repeated after the process was killed


def check(listing: Listing, place: Path) -> CheckedFiles:
    """Return what `inspect` finds in each file of a listing, of the folder or table `place`.

    Of several processes on one machine the first checks the files; the others wait and then read
    its results. What is known is kept even if the check is interrupted.
    """
    with exclusive_lock(folder_of(place)) as writable:
        progress = Rate(listing.n, "checking images", "images")
        with closing(gradually(listing, place, writable)) as steps, closing(progress):
            for checked in steps:
                progress.show(checked.known)
    return checked


def gradually(listing: Listing, place: Path, writable: bool) -> Generator[CheckedFiles, None, None]:
    """Check the files of a listing that are not known. Yield what is, at first and then often.

    It is always the same object. It is kept if the cache is `writable`.
    """
    file = folder_of(place) / f"files-{decode.VERSION}.npz"
    checked, unchanged = read(file, listing)
    missing = checked.unchecked()
    saved = time.monotonic()
    yield checked
    try:
        for images, seen in _inspected(missing, listing):
            checked.add(images, seen)
            if writable and time.monotonic() - saved > SAVE_EVERY:
                checked.save(file, listing)
                saved = time.monotonic()
            yield checked
    finally:
        if writable and (not unchanged or checked.sha256[missing].any()):
            checked.save(file, listing)


def folder_of(place: Path) -> Path:
    """Return the folder of what is known of a place's files."""
    name = sha256_of([os.fsencode(place.absolute())])[:20]
    return cache_folder() / "checked-images" / name


def _inspected(
    missing: np.ndarray, listing: Listing
) -> Iterator[tuple[np.ndarray, list[Inspected]]]:
    """Inspect the missing files. Yield a few of them, in their order, with what is found.

    Several threads would spend most of their time waiting for Python's lock if the files are small:
    one is faster then. So the first few files of every batch are timed.
    """

    def inspect_some(images: np.ndarray) -> list[Inspected]:
        return inspect_all([listing.paths.location(i) for i in images])

    def timed(images: np.ndarray) -> tuple[list[Inspected], float]:
        seen, times = list[Inspected](), list[float]()
        for i in range(len(images)):
            begun = time.perf_counter()
            seen += inspect_some(images[i : i + 1])
            times.append(time.perf_counter() - begun)
        return seen, median(times)

    with (
        jpeg_messages.heard(),
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(this_machine().cores) as several,
    ):
        try:
            for start in range(0, len(missing), AT_ONCE):
                batch = missing[start : start + AT_ONCE]
                first, others = batch[:FIRST], batch[FIRST:]
                seen, seconds = one.submit(timed, first).result()
                yield first, seen
                parts = _parts(others, listing.sizes)
                threads = several if seconds > QUICK else one
                yield from zip(parts, threads.map(inspect_some, parts), strict=True)
        finally:  # or an interruption would wait for them
            for threads in (one, several):
                threads.shutdown(cancel_futures=True)


def _parts(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Divide images among calls: many in each, so that little time is spent on the calls."""
    if not len(images):
        return []
    each = int(PART_BYTES / max(sizes[images].mean(), PART_BYTES / PART_FILES)) or 1
    return [images[i : i + each] for i in range(0, len(images), each)]
