"""The one timer of training: rows per second inside an epoch, and of everything.

It needs torch only, so it measures any other loop just as it does this project's.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Return the time, in seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """Measures a training loop on one device: it is told of every step, epoch and validation.

    An epoch's clock starts after its first step, which waits for the loader and may compile.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rates: list[float] = []  # of each epoch
        self.marks: list[tuple[float, int]] = []  # time and rows so far, at each end_validation
        self.start: float | None = None
        self.rows = self.all_rows = 0
        self.first_step: float | None = None  # time.time() when it was done

    def step(self, rows: int) -> None:
        """Count a training step that was asked for; only an epoch's first is waited for."""
        self.all_rows += rows
        if self.start is None:
            self.start = now(self.device)
            self.first_step = self.first_step or time.time()
        else:
            self.rows += rows

    def end_epoch(self) -> None:
        """Wait for the device: the rate inside this epoch is complete, if it had two steps."""
        if self.start is not None and self.rows:
            self.rates.append(self.rows / (now(self.device) - self.start))
        self.rows, self.start = 0, None

    def end_validation(self) -> None:
        """Wait for the device: an epoch's validation and checkpoint, if it had any, are over."""
        self.marks.append((now(self.device), self.all_rows))

    @property
    def inside(self) -> float | None:
        """Rows/s inside an epoch: the median, the first epoch apart if there are more."""
        return statistics.median(self.rates[1:] or self.rates) if self.rates else None

    @property
    def whole(self) -> float | None:
        """Rows/s from the first end of a validation to the last: all is in it but compiling."""
        if len(self.marks) < 2:
            return None
        (begin, before), (end, after) = self.marks[0], self.marks[-1]
        return (after - before) / (end - begin)

    def found(self, losses: Sequence[float]) -> dict[str, Any]:
        """Return all that it measured, with the first and the last of the losses."""
        on_gpu = self.device.type == "cuda"
        return {
            "inside": self.inside,
            "whole": self.whole,
            "rates": self.rates,
            "epochs": len(self.rates),
            "peak_gib": torch.cuda.max_memory_allocated(self.device) / 2**30 if on_gpu else None,
            "first_step": self.first_step,
            **dict(zip(("first_loss", "last_loss"), [*losses[:1], *losses[-1:]], strict=False)),
        }
