"""The timer of training: rows per second within epochs, and including validation and saving.

It needs torch only, so benchmarks measure other training loops with the same timer.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Wait for all work queued on the device; return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """Measures a training loop on one device. Call it after every step, epoch and validation.

    The time of an epoch starts after its first step, which waits for the loader and may compile.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rates: list[float] = []  # rows/s of each epoch
        self.spans: list[tuple[float, float]] = []  # time.time() of each epoch's start and end
        self.marks: list[tuple[float, int]] = []  # time and rows so far, at each end_validation
        self.start: float | None = None
        self.begun = 0.0  # time.time() at `start`
        self.rows = self.all_rows = 0
        self.first_step: float | None = None  # time.time() after the first step

    def step(self, rows: int) -> None:
        """Count a training step, finished or not; wait only for the first step of an epoch."""
        self.all_rows += rows
        if self.start is None:
            self.start, self.begun = now(self.device), time.time()
            self.first_step = self.first_step or self.begun
        else:
            self.rows += rows

    def end_epoch(self) -> None:
        """Wait for the device and record the epoch's rate, if it had at least two steps."""
        if self.start is not None and self.rows:
            self.rates.append(self.rows / (now(self.device) - self.start))
            self.spans.append((self.begun, time.time()))
        self.rows, self.start = 0, None

    def end_validation(self) -> None:
        """Wait for the device and record the time, after an epoch's validation and checkpoint."""
        self.marks.append((now(self.device), self.all_rows))

    @property
    def inside(self) -> float | None:
        """Rows/s within an epoch: the median, without the first epoch if there are more."""
        return statistics.median(self.rates[1:] or self.rates) if self.rates else None

    @property
    def whole(self) -> float | None:
        """Rows/s from the end of the first validation to that of the last, without compiling."""
        if len(self.marks) < 2:
            return None
        (begin, before), (end, after) = self.marks[0], self.marks[-1]
        return (after - before) / (end - begin)

    def found(self, losses: Sequence[float]) -> dict[str, Any]:
        """Return all measurements, with the first and the last loss. All ranks must call it.

        `window` is when the epochs of `inside` were trained, in time.time().
        """
        on_gpu, timed = self.device.type == "cuda", self.spans[1:] or self.spans
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if on_gpu else None
        return {
            "inside": self.inside,
            "whole": self.whole,
            "rates": self.rates,
            "window": [timed[0][0], timed[-1][1]] if timed else None,
            "epochs": len(self.rates),
            "peak_gib": peak,
            "peaks_gib": _of_every_rank(peak),
            "first_step": self.first_step,
            **dict(zip(("first_loss", "last_loss"), [*losses[:1], *losses[-1:]], strict=False)),
        }


def _of_every_rank(value: float | None) -> list[float | None]:
    """Return the values of all ranks of a training, in rank order."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
