"""How fast a run's workers read, beside how fast it trains: which of the two limits it."""

import statistics
import time
from collections import deque

import lightning as L
import torch

from ..data.module import Data
from ..ranks import is_rank_zero
from .bar import print_beside

STEPS = 10  # whose median is taken

Mark = float | torch.cuda.Event  # a moment on the host, or on the GPU


class Reading(L.Callback):
    """Measures reading and training in the first steps, and prints both once.

    Reading is timed within the workers: beside each other and beside training, from the disk or
    from what the system keeps of it in memory. A step is timed where it runs, without the wait for
    its batch. So each is what is possible if the other took no time.
    """

    def __init__(self) -> None:
        self.found: dict[str, float] | None = None  # rows/s that are read and trained, rounded

    def on_train_start(self, trainer, pl_module) -> None:
        self.parts = trainer.accumulate_grad_batches
        self.batches = deque[tuple[Mark, Mark]](maxlen=STEPS * self.parts)  # begin and end of each

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.found is None:
            self.begun = _now(pl_module.device)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.found is not None:
            return
        self.batches.append((self.begun, _now(pl_module.device)))
        read = getattr(trainer.train_dataloader, "rows_per_second", None)
        enough = read and len(self.batches) == self.batches.maxlen
        if not enough or (batch_idx + 1) % self.parts or not _is_over(self.batches[-1][1]):
            return
        seconds = [_seconds(*marks) for marks in self.batches]
        steps = [sum(seconds[i : i + self.parts]) for i in range(0, len(seconds), self.parts)]
        rows = len(batch.row) * self.parts
        trained = rows / statistics.median(steps)
        read, trained = (round(speed * trainer.world_size, 1) for speed in (read, trained))
        self.found = {"read": read, "trained": trained}
        if is_rank_zero():
            print_beside(self._said(trainer))

    def _said(self, trainer: L.Trainer) -> str:
        assert self.found is not None
        data, (read, trained) = trainer.datamodule, self.found.values()  # type: ignore[attr-defined]
        assert isinstance(data, Data)  # only its loaders know how fast they read
        unit = data.facts().unit
        limits = "reading is the bottleneck" if read < trained else "reading keeps up"
        if not data.decisions.workers.value:
            limits = "one after the other, without workers"
        return f"reading: up to {read:,.0f} {unit}/s; training: up to {trained:,.0f}; {limits}"


def _now(device: torch.device) -> Mark:
    """Return this moment; that on a GPU comes when it has done what it was given before."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _is_over(mark: Mark) -> bool:
    """Return whether a moment has come, without waiting for it."""
    return isinstance(mark, float) or mark.query()


def _seconds(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        return float(end) - float(begin)  # type: ignore[arg-type]
    return begin.elapsed_time(end) / 1000
