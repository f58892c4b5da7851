"""What all images of a data set must agree in: the bits that they use, and their channels.

Images in which `inspect` found the same share a verdict: `problems` and `counts`, of images, are
those of each verdict of a CheckedFiles.
"""

from collections.abc import Iterable
from heapq import nsmallest

import numpy as np

from ...errors import UserError
from ...plurals import counted, plural
from ..decoding.channels import fits
from ..decoding.depth import depth_of, too_dark
from ..finding.file_paths import Paths
from ..finding.names import MAX_LISTED, join_names, printable
from .checked_files import CheckedFiles
from .inspection import PAGES, Inspected

Problems = list[str | None]


def problem_of(seen: Inspected, channels: int) -> str | None:
    """Return why an image can't be read with so many channels, or None."""
    if seen.problem or fits(seen.channels, seen.picture, channels):
        return seen.problem
    return (
        f"has {_count(seen)}, and data.channels is {channels}: convert it, or set the number that"
        " all have"
    )


def check_channels(
    paths: Paths, checked: CheckedFiles, counts: np.ndarray, remarks: list[str], channels: int
) -> Problems:
    """Return the problem of each verdict; add lines about channels that are lost or added.

    Raises UserError if no image can be read with so many, and all have the same other number.
    """
    verdicts = checked.verdicts
    problems = [problem_of(seen, channels) for seen in verdicts]
    good = [v for v, seen in enumerate(verdicts) if counts[v] and not seen.problem]
    numbers = {verdicts[v].channels for v in good}
    if good and all(problems[v] for v in good) and len(numbers) == 1:
        first = int(np.isin(checked.found, good).argmax())
        raise UserError(
            f"The images have {_count(verdicts[checked.found[first]])}, such as"
            f" {printable(paths[first])}, and data.channels is {channels}: set --data.channels"
            f" {numbers.pop()}."
        )
    told = {}
    for v in good:
        seen = verdicts[v]
        if problems[v]:
            continue
        if channels == 4 and seen.channels in (1, 3):
            told[v] = "no alpha channel: all of their pixels are opaque"
        elif seen.channels > 4 > channels and seen.note != PAGES:
            told[v] = f"{seen.channels} channels, and data.channels is {channels}"
    remarks += lines_about(paths, checked, told)
    return problems


def _count(seen: Inspected) -> str:
    """Return the number of an image's channels, and where an array has them."""
    place = " in the last dimension" * seen.is_array
    return f"{seen.channels} channel{'s' * (seen.channels > 1)}{place}"


def note_of(seen: Inspected, channels: int) -> str | None:
    """Return an image's note, unless it speaks of pages that are read as channels."""
    are_channels = seen.channels == channels and channels not in (1, 3)
    return None if seen.note == PAGES and are_channels else seen.note


def bits_in_common(
    paths: Paths,
    checked: CheckedFiles,
    problems: Problems,
    counts: np.ndarray,
    remarks: list[str],
    given: int | None,
    channels: int,
) -> int:
    """Return the bits that the 16-bit images use; add to `problems` which are nearly black.

    Raises UserError if the bits that are given hold fewer values than the images have.
    """
    peaks = {
        v: peak
        for v, seen in enumerate(checked.verdicts)
        if counts[v] and not problems[v] and (peak := seen.peak_for(channels))
    }
    largest = max(peaks.values(), default=0)
    bits = depth_of(peaks.values()) if given is None else given
    if bits not in range(8, 17) or largest >= 2**bits:
        raise UserError(
            f"data.options.bits is {bits}, and the largest value of the 16-bit images is {largest};"
            f" expected {max(largest.bit_length(), 8)} to 16."
        )
    for v, peak in peaks.items():
        problems[v] = too_dark(peak, bits)
    dark = [v for v, peak in peaks.items() if peak < 2**14 and not problems[v]]
    total = int(counts[list(peaks)].sum())
    if peaks and bits < 16:
        have, they = plural(total, "has", "have"), plural(total, "it is", "they are")
        remarks.append(
            f"{counted(total, 'image')} {have} 16 bits and no value above {largest}: {they} read as"
            f" {bits} bits, in training, evaluation and the service"
        )
    elif dark:
        images = np.flatnonzero(np.isin(checked.found, dark))
        have, they = plural(len(images), "has", "have"), plural(len(images), "it is", "they are")
        remarks.append(
            f"{len(images)} of {total} images of 16 bits {have} no value above {2**14 - 1}, others"
            f" {largest}; all are read with one scale, so {they} dark:"
            f" {_first_names(paths, images)}"
        )
    return bits


def lines_about(paths: Paths, checked: CheckedFiles, told: dict[int, str]) -> list[str]:
    """Return a line for each text about verdicts, in the order of the first images."""
    kinds: dict[str, list[int]] = {}
    for v, text in told.items():
        kinds.setdefault(text, []).append(v)
    having = [(np.flatnonzero(np.isin(checked.found, of)), text) for text, of in kinds.items()]
    return [
        f"{counted(len(images), 'image')} {plural(len(images), 'has', 'have')} {text}:"
        f" {_first_names(paths, images)}"
        for images, text in sorted(having, key=lambda each: each[0][:1].tolist())
        if len(images)
    ]


def _first_names(paths: Paths, images: Iterable[int]) -> str:
    """Return the names of images as `join_names` does, without making a Path of each."""
    parts = ((paths.written(i).split(b"/"), i) for i in images)
    return join_names(paths[i] for _, i in nsmallest(MAX_LISTED + 1, parts))
