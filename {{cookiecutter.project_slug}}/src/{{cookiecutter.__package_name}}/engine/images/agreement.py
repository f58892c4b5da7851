"""What all images of a data set must agree in: the bits that they use, and their channels."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .channels import fits
from .depth import depth_of, too_dark
from .inspection import PAGES, Inspected
from .listing import ImageEntry
from .names import join_names, printable


def find_misfits(
    found: Sequence[ImageEntry],
    results: Sequence[Inspected],
    problems: dict[int, str],
    remarks: list[str],
    channels: int,
) -> None:
    """Add the images that can't be read with so many channels to `problems`.

    A line for those that lose channels or get one is added to `remarks`. Raises UserError if no
    image can be read with so many, and all have the same other number.
    """
    good = [i for i in range(len(found)) if i not in problems]
    misfits = [i for i in good if not fits(results[i].channels, results[i].picture, channels)]
    numbers = {results[i].channels for i in misfits}
    if misfits and misfits == good and len(numbers) == 1:
        number, path = numbers.pop(), found[good[0]].path
        raise UserError(
            f"The images have {_count(number, path)}, such as {printable(path)}, and data.channels"
            f" is {channels}: set --data.channels {number}."
        )
    for i in misfits:
        problems[i] = (
            f"has {_count(results[i].channels, found[i].path)}, and data.channels is {channels}:"
            " convert it, or set the number that all have"
        )
    told: dict[str, list[Path]] = defaultdict(list)
    for i in sorted(set(good) - set(misfits)):
        number = results[i].channels
        if channels == 4 and number in (1, 3):
            told["no alpha channel: all of their pixels are opaque"].append(found[i].path)
        elif number > 4 > channels and results[i].note != PAGES:
            told[f"{number} channels, and data.channels is {channels}"].append(found[i].path)
    remarks += [f"{len(of)} images have {text}: {join_names(of)}" for text, of in told.items()]


def _count(channels: int, path: Path) -> str:
    """Return the number of channels as text; of an array, with its place in the shape."""
    place = " in its last dimension" if path.suffix.lower() == ".npy" else ""
    return f"{channels} channel{'s' * (channels > 1)}{place}"


def note_of(seen: Inspected, channels: int) -> str | None:
    """Return an image's note, unless it speaks of pages that are read as channels."""
    are_channels = seen.channels == channels and channels not in (1, 3)
    return None if seen.note == PAGES and are_channels else seen.note


def bits_in_common(
    found: Sequence[ImageEntry],
    results: Sequence[Inspected],
    problems: dict[int, str],
    remarks: list[str],
    given: int | None,
    channels: int,
) -> int:
    """Return the bits that the 16-bit images use; add those that are nearly black to `problems`.

    Raises UserError if the bits that are given hold fewer values than the images have.
    """
    peaks = {i: seen.peak_for(channels) for i, seen in enumerate(results) if i not in problems}
    peaks = {i: peak for i, peak in peaks.items() if peak}
    largest = max(peaks.values(), default=0)
    bits = depth_of(peaks.values()) if given is None else given
    if bits not in range(8, 17) or largest >= 2**bits:
        raise UserError(
            f"data.options.bits is {bits}, and the largest value of the 16-bit images is {largest};"
            f" expected {max(largest.bit_length(), 8)} to 16."
        )
    problems |= {i: reason for i, peak in peaks.items() if (reason := too_dark(peak, bits))}
    dark = [found[i].path for i, peak in peaks.items() if peak < 2**14 and i not in problems]
    if peaks and bits < 16:
        remarks.append(
            f"{len(peaks)} images have 16 bits and no value above {largest}: they are read as"
            f" {bits} bits, in training, evaluation and the service"
        )
    elif dark:
        remarks.append(
            f"{len(dark)} of {len(peaks)} images of 16 bits have no value above {2**14 - 1}, others"
            f" {largest}; all are read with one scale, so these are dark: {join_names(dark)}"
        )
    return bits
