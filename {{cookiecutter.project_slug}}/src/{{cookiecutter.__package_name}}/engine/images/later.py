"""Checking files while a network trains on them: `--data.check later`.

Training starts at once, so nothing may depend on what the files hold: they are divided by their
names. A process beside training reads them, in the order of the list. What it finds out is kept
for later starts, and handled as the source's option `skip_bad` says.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..errors import UserError
from ..paths import is_writable
from ..plurals import counted, plural
from .checking.agreement import problem_of
from .checking.checked_files import CheckedFiles
from .checking.file_check import folder_of, gradually
from .checking.inspection import Inspected
from .checking.left_out import LeftOut, Unchecked
from .checking.usable import ADVICE, only_usable
from .finding.division import Contents, copies
from .finding.listing import Listing
from .finding.names import MAX_LISTED, printable

REPORT_EVERY = 1.0  # seconds
PATIENCE = 10.0  # seconds in which the check has to end
When = Literal["now", "later"]
Report = tuple[str, tuple[str, ...]]  # why training must end, or "", and what the user should know

_when: ContextVar[When] = ContextVar("when", default="now")


@contextmanager
def checked(when: When) -> Iterator[None]:
    """Let the sources that are called in the block check their files before training, or later."""
    token = _when.set(when)
    try:
        yield
    finally:
        _when.reset(token)


def is_later() -> bool:
    return _when.get() == "later"


def by_names(listing: Listing, channels: int) -> CheckedFiles:
    """Return as if all files had so many channels, with digests of their names and sizes."""
    known = CheckedFiles(listing.n)
    known.verdicts, known.found[:] = [Inspected("", channels=channels)], 0
    known.sha256 = listing.paths.digests(listing.sizes)
    return known


class LaterCheck:
    """The check of a list's files beside training.

    `splits` are those of the images, int8 (n,). `known` is the number of files that are checked,
    `problem` why training must end, `remarks` what the user should know.
    """

    def __init__(
        self,
        listing: Listing,
        splits: np.ndarray,
        place: Path,
        skip_bad: bool,
        bits: int,
        channels: int,
    ) -> None:
        self.listing, self.splits, self.place = listing, splits, place
        self.skip_bad, self.bits, self.channels = skip_bad, bits, channels
        self.left_out = LeftOut(listing.n)
        self.remarks: tuple[str, ...] = ()
        self.known, self.problem, self.raised = 0, "", False
        self.process: Any = None

    def of(self, images: np.ndarray) -> Unchecked:
        """Return what the readers of some images have to know: their indices, integers (k,)."""
        return Unchecked(self.left_out, images.astype(np.int32), self.skip_bad)

    def start(self) -> None:
        """Start the check in a process of low priority."""
        self.known, self.problem, self.raised = 0, "", False
        receiver, sender = multiprocessing.Pipe(duplex=False)
        arguments = self, sender, os.getpid()
        self.process = multiprocessing.Process(target=_check, args=arguments, daemon=True)
        self.process.start()
        sender.close()
        self.listener = threading.Thread(target=self._listen, args=(receiver,), daemon=True)
        self.listener.start()

    def _listen(self, receiver: Connection) -> None:
        with receiver, suppress(EOFError, OSError):
            while True:
                self.known, problem, remarks = receiver.recv()
                self.problem = self.problem or problem
                for remark in remarks:
                    self._note(remark)

    def stop(self) -> None:
        """Stop the check. What it knows is kept: the next start goes on from there."""
        self.left_out.unlink()
        if self.process is not None:
            self.process.terminate()  # it saves first
            self.process.join(PATIENCE)
            self.process.kill()
            self.listener.join()
            self.process = None
            missing, n = self.listing.n - self.known, self.listing.n
            if self.problem and not self.raised:  # training ended just before
                self._note(self.problem)
            elif missing and not self.problem:
                self._note(
                    f"{missing:,} of {n:,} images are not checked yet: the next start goes on"
                )

    def raise_problem(self) -> None:
        """Raise UserError if files were found that can't be used."""
        if self.problem and not self.raised:
            self.raised = True
            raise UserError(self.problem)

    def _note(self, remark: str) -> None:
        self.remarks += (remark,)
        print(f"note: {remark}", flush=True)

    def as_json(self) -> dict[str, Any]:
        """Return what a run's record says about the check."""
        bad = int(self.left_out.flags.sum())
        return {"files": self.listing.n, "checked": self.known, "bad": bad}


def _check(later: LaterCheck, sender: Connection, parent: int) -> None:
    """Check the files, in a process of its own, and report until that is done."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.nice(10)
    torch.set_num_threads(1)
    listing, writable = later.listing, is_writable(folder_of(later.place))
    flagged, reported = _Flagged(later), -REPORT_EVERY
    with suppress(BrokenPipeError), closing(gradually(listing, later.place, writable)) as steps:
        for found in steps:
            if os.getppid() != parent:
                return
            if time.monotonic() - reported > REPORT_EVERY:
                sender.send((found.known, *flagged.update(found)))
                reported = time.monotonic()
        sender.send((found.known, *flagged.update(found)))
        sender.send((found.known, *_of_all(later, found)))


class _Flagged:
    """Flags the files that can't be used, as soon as they are known."""

    def __init__(self, later: LaterCheck) -> None:
        self.later, self.named = later, 0

    def update(self, found: CheckedFiles) -> Report:
        """Return why training must end, or else the lines about files that are left out now."""
        later = self.later
        problems = [problem_of(seen, later.channels) for seen in found.verdicts]
        bad = np.array([*(problem is not None for problem in problems), False])[found.found]
        new = np.flatnonzero(bad & (later.left_out.flags == 0))
        later.left_out.flags[new] = 1
        lines = [
            f"{printable(later.listing.paths[i])} {problems[found.found[i]]}"
            for i in new[: MAX_LISTED - self.named]
        ]
        self.named += len(lines)
        if later.skip_bad or not lines:
            return "", tuple(f"left out from now on: {line}" for line in lines)
        text = "\n  ".join(lines)
        return (
            f"{counted(len(new), 'image')} can't be used, as the check found:\n  {text}\n{ADVICE}",
            (),
        )


def _of_all(later: LaterCheck, found: CheckedFiles) -> Report:
    """Flag copies of images in other classes or splits, now that all contents are known.

    By names, copies in one class can get to different splits: then one is left out.
    """
    listing, contents, remarks = later.listing, Contents(found.sha256), list[str]()
    try:
        usable, _ = only_usable(
            listing,
            found,
            contents,
            later.place,
            later.skip_bad,
            remarks,
            later.bits,
            later.channels,
        )
    except UserError as error:
        return str(error), ()
    divided = copies(contents, listing.labels, later.splits, usable) >= 0
    later.left_out.flags[~usable | divided] = 1
    if count := int(divided.sum()):
        copy_of = plural(count, "a copy of an image", "copies of images")
        remarks.append(f"{counted(count, 'image')} left out: {copy_of} in another split")
    return "", tuple(remarks)
