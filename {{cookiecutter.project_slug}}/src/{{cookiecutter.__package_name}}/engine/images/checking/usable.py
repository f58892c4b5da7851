"""Which images can be used, and what their owner is told about them."""

from pathlib import Path

import numpy as np

from ...errors import UserError
from ..finding.division import TRAIN, Contents, copies
from ..finding.listing import Listing
from ..finding.names import MAX_LISTED, SPLITS, join_names, printable
from .agreement import bits_in_common, check_channels, lines_about, note_of
from .checked_files import CheckedFiles

ADVICE = "Fix or remove them, or leave them out with --data.options.skip_bad true."


def only_usable(
    found: Listing,
    checked: CheckedFiles,
    contents: Contents,
    place: Path,
    skip_bad: bool,
    remarks: list[str],
    given: int | None,
    channels: int,
) -> tuple[np.ndarray, int]:
    """Return which images are used, bool (n,), and the bits that 16-bit images use.

    `given` are the bits that the settings give, `channels` those that images are read with. Raises
    UserError for images that can't be used, unless `skip_bad` leaves them out and every class keeps
    some.
    """
    counts = np.bincount(checked.found, minlength=len(checked.verdicts))
    problems = check_channels(found.paths, checked, counts, remarks, channels)
    bits = bits_in_common(found.paths, checked, problems, counts, remarks, given, channels)
    usable = np.array([problem is None for problem in problems])[checked.found]
    others = copies(contents, found.labels, found.splits, usable)
    notes = {v: note_of(seen, channels) for v, seen in enumerate(checked.verdicts)}
    remarks += lines_about(found.paths, checked, {v: note for v, note in notes.items() if note})
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
    emptied = emptied if found.objective == "classes" else set()
    if emptied:
        names = join_names(found.names[i] for i in emptied)
        raise UserError(
            f"{place}: {len(bad)} of {found.n} images can't be used, and without them"
            f" {names} would have none. Fix them, or remove the class:\n{text}"
        )
    remarks.append(f"{len(bad)} of {found.n} images left out:\n{text}")
    return usable, bits


def _copy_of(found: Listing, image: int, other: int) -> str:
    """Return what is wrong with an image that is the same as another."""
    shown = printable(found.paths[other])
    if found.labels[image] != found.labels[other]:
        return f"is the same image as {shown}, of '{found.names[found.labels[other]]}'"
    return f"is also in {SPLITS[max(found.splits[other], TRAIN)]}: {shown}"
