"""The training loop of rows without Lightning: the bench's clock, and when to stop."""

import json
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch
from my_project.engine.monitor.clock import Clock
from torch import Tensor

WARM_UP = 30  # steps that compile and fill the queues, in a separate epoch
EPOCHS, SECONDS = 3, 15.0  # timed: this many epochs, but not longer than SECONDS


class Loop:
    """Trains with any step on any batches. The last part of a batch is its labels.

    At least `steps` steps are timed, unless that takes longer than SECONDS. Several `devices` train
    the same number of whole epochs.
    """

    def __init__(self, device: torch.device, steps: int, devices: int = 1) -> None:
        self.device, self.steps, self.clock = device, steps, Clock(device)
        self.devices = devices
        self.losses: list[float] = []  # of the first step, and of each epoch's last

    def train(
        self, batches: Iterable, step: Callable[..., Tensor], least_seconds: float = 0.0
    ) -> None:
        """Train for several epochs; `step` takes the parts of a batch and returns its loss."""
        self._epoch(islice(batches, WARM_UP), step, float("inf"))
        begun, steps, epochs = time.perf_counter(), 0, 0
        end = begun + max(SECONDS, least_seconds)
        while self._goes_on(
            time.perf_counter() < end
            and (
                steps < self.steps or epochs < EPOCHS or time.perf_counter() < begun + least_seconds
            )
        ):
            within = end if self.devices == 1 else float("inf")
            steps, epochs = steps + self._epoch(batches, step, within), epochs + 1

    def _goes_on(self, here: bool) -> bool:
        """Return whether all devices go on: as soon as one does not, none does."""
        if self.devices == 1:
            return here
        all_go = torch.tensor(float(here), device=self.device)
        torch.distributed.all_reduce(all_go, torch.distributed.ReduceOp.MIN)
        return bool(all_go)

    def begin(self, loss: Tensor) -> None:
        """Wait for the first step, and record its loss and time."""
        self.losses, self.clock.first_step = [float(loss)], time.time()

    def _epoch(self, batches: Iterable, step: Callable[..., Tensor], end: float) -> int:
        steps = 0
        for batch in batches:
            loss, steps = step(*batch), steps + 1
            self.clock.step(len(batch[-1]) * self.devices)
            if not self.losses:
                self.begin(loss)
            if time.perf_counter() > end:
                break
        self.clock.end_epoch()
        self.losses.append(float(loss))
        return steps

    def write(self, out: Path | None) -> None:
        """Write what ClockCallback writes for a Lightning run. Only one of several ranks does."""
        found = self.clock.found(self.losses)
        if out is not None:
            out.write_text(json.dumps(found, indent=2) + "\n")
