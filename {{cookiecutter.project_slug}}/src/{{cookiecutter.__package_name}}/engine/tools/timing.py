"""The one timer of all that is compared: rows per second inside an epoch, and of everything.

It needs torch and Lightning only, so it measures any other loop just as it does this project's.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

LOSS_EVERY = 8  # steps: the losses of these are kept on the device until the run is over


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


class ClockCallback(L.Callback):
    """A Clock in any Lightning Trainer; what it found is a JSON file when fit ends.

    That holds inside, whole, rates (of each epoch), epochs, peak_gib (of CUDA's memory), first_step
    (when it was done), and the mean of some steps' losses in the first and in the last epoch:
    first_loss, last_loss.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.losses: list[list[torch.Tensor]] = [[]]  # of some steps of each epoch

    def on_train_start(self, trainer, pl_module) -> None:
        self.clock = Clock(trainer.strategy.root_device)
        self.validated = not trainer.enable_validation  # then there is nothing to wait for

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if self.validated and self.clock.all_rows:  # only now is the last checkpoint saved
            self.clock.end_validation()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.clock.step(rows_in(batch) * trainer.world_size)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and batch_idx % LOSS_EVERY == 0:
            self.losses[-1].append(loss.detach().clone())
        if batch_idx + 1 == trainer.num_training_batches:
            self._end_epoch(trainer)

    def on_validation_start(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self.validated = True
            self._end_epoch(trainer)  # in two parts, if validation comes in the middle of it

    def on_train_end(self, trainer, pl_module) -> None:
        self._end_epoch(trainer)  # one that max_steps cut short
        if self.validated:
            self.clock.end_validation()

    def on_fit_end(self, trainer, pl_module) -> None:
        losses = [float(torch.stack(some).mean()) for some in self.losses if some]
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.clock.found(losses), indent=2) + "\n")

    def _end_epoch(self, trainer: L.Trainer) -> None:
        if self.clock.start is not None:
            self.clock.end_epoch()
            logged = trainer.callback_metrics.get("train/loss")
            if not self.losses[-1] and logged is not None:  # the steps themselves return nothing
                self.losses[-1].append(logged.clone())
            self.losses.append([])


def rows_in(batch: Any) -> int:
    """Return how many rows a batch has: the length of the first tensor in it."""
    if hasattr(batch, "row"):
        return len(batch.row)
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(batch)
