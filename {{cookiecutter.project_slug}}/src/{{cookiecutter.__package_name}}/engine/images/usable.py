"""Which images can be used, and what their owner is told about them."""

from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path

import numpy as np

from ..errors import UserError
from .checked_files import CheckedFiles
from .depth import depth_of, too_dark
from .division import TRAIN, Contents, copies
from .file_paths import Paths
from .listing import Listing
from .names import MAX_LISTED, SPLITS, join_names, printable

ADVICE = "Fix or remove them, or leave them out with --data.options.skip_bad true."


def only_usable(
    found: Listing,
    checked: CheckedFiles,
    contents: Contents,
    place: Path,
    skip_bad: bool,
    remarks: list[str],
    given: int | None,
) -> tuple[np.ndarray, int]:
    """Return which images are used, bool (n,), and the bits that 16-bit images use.

    `given` are the bits that the settings give. Raises UserError for images that can't be used,
    unless `skip_bad` leaves them out and every class keeps some.
    """
    problems = [seen.problem for seen in checked.verdicts]
    counts = np.bincount(checked.found, minlength=len(problems))
    bits = _depth(found, checked, problems, counts, remarks, given)
    usable = np.array([problem is None for problem in problems])[checked.found]
    others = copies(contents, found.labels, found.splits, usable)
    remarks += _notes(found.paths, checked)
    usable &= others < 0
    bad = np.flatnonzero(~usable)
    if not len(bad):
        return usable, bits
    lines = [
        f"  {printable(found.paths[i])} "
        + (problems[checked.found[i]] or _copy_of(found, i, others[i]))
        for i in bad[:MAX_LISTED]
    ]
    text = "\n".join(lines + ["  …"] * (len(bad) > MAX_LISTED))
    if not skip_bad:
        raise UserError(f"{len(bad)} of {found.n} images can't be used:\n{text}\n{ADVICE}")
    emptied = set(range(len(found.names))) - set(np.unique(found.labels[usable]).tolist())
    if emptied:
        names = join_names(found.names[i] for i in emptied)
        raise UserError(
            f"{place}: {len(bad)} of {found.n} images can't be used, and without them"
            f" {names} would have none. Fix them, or remove the class:\n{text}"
        )
    remarks.append(f"{len(bad)} of {found.n} images left out:\n{text}")
    return usable, bits


def _depth(
    found: Listing,
    checked: CheckedFiles,
    problems: list[str | None],
    counts: np.ndarray,
    remarks: list[str],
    given: int | None,
) -> int:
    """Return the bits that the 16-bit images use; add to `problems` which are nearly black.

    `problems` and `counts` are those of each verdict. Raises UserError if the bits that are given
    hold fewer values than the images have.
    """
    deep = [
        number
        for number, seen in enumerate(checked.verdicts)
        if seen.peak and counts[number] and not problems[number]
    ]
    peaks = {number: checked.verdicts[number].peak for number in deep}
    largest = max(peaks.values(), default=0)
    bits = depth_of(peaks.values()) if given is None else given
    if bits not in range(8, 17) or largest >= 2**bits:
        raise UserError(
            f"data.options.bits is {bits}, and the largest value of the 16-bit images is {largest};"
            f" expected {max(largest.bit_length(), 8)} to 16."
        )
    for number, peak in peaks.items():
        problems[number] = too_dark(peak, bits)
    dark = [i for i, peak in peaks.items() if peak < 2**14 and not problems[i]]
    total = int(counts[deep].sum())
    if peaks and bits < 16:
        remarks.append(
            f"{total} images have 16 bits and no value above {largest}: they are read as"
            f" {bits} bits, in training, evaluation and the service"
        )
    elif dark:
        images = np.flatnonzero(np.isin(checked.found, dark))
        remarks.append(
            f"{len(images)} of {total} images of 16 bits have no value above {2**14 - 1}, others"
            f" {largest}; all are read with one scale, so these are dark:"
            f" {_first_names(found.paths, images)}"
        )
    return bits


def _notes(paths: Paths, checked: CheckedFiles) -> Iterator[str]:
    """Yield a line for each note, in the order in which they were found."""
    kinds: dict[str, list[int]] = {}
    for number, seen in enumerate(checked.verdicts):
        if seen.note:
            kinds.setdefault(seen.note, []).append(number)
    having = [(np.flatnonzero(np.isin(checked.found, of)), kind) for kind, of in kinds.items()]
    for images, kind in sorted(having, key=lambda each: each[0][:1].tolist()):
        if len(images):
            yield f"{len(images)} images have {kind}: {_first_names(paths, images)}"


def _copy_of(found: Listing, image: int, other: int) -> str:
    """Return what is wrong with an image that is the same as another."""
    shown = printable(found.paths[other])
    if found.labels[image] != found.labels[other]:
        return f"is the same image as {shown}, of '{found.names[found.labels[other]]}'"
    return f"is also in {SPLITS[max(found.splits[other], TRAIN)]}: {shown}"


def _first_names(paths: Paths, images: np.ndarray) -> str:
    """Return the names of images as `join_names` does, without making a Path of each."""
    parts = ((paths.written(i).split(b"/"), i) for i in images)
    return join_names(paths[i] for _, i in nsmallest(MAX_LISTED + 1, parts))
