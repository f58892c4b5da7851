"""A clock for all comparisons, in this project's Trainer or any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..json_text import to_json
from ..monitor.clock import Clock

LOSS_EVERY = 8  # steps: every so many, the loss is kept on the device until the run ends


class ClockCallback(L.Callback):
    """A Clock in any Lightning Trainer. It writes its results to a JSON file when fit ends.

    The keys are inside, whole, rates (per epoch), window (when they were timed), epochs, peak_gib
    (CUDA memory), peaks_gib (of every rank), first_step (when it ended), first_loss and last_loss
    (the mean loss of some steps in the first and the last epoch), and the network's number of
    parameters.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.losses: list[list[torch.Tensor]] = [[]]  # of some steps of each epoch

    def on_train_start(self, trainer, pl_module) -> None:
        self.clock = Clock(trainer.strategy.root_device)
        self.validated = not trainer.enable_validation  # if there is no validation to wait for

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if self.validated and self.clock.all_rows:  # the last checkpoint is saved only now
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
            self._end_epoch(trainer)  # validation within an epoch divides it in two

    def on_train_end(self, trainer, pl_module) -> None:
        self._end_epoch(trainer)  # max_steps may end it early
        if self.validated:
            self.clock.end_validation()

    def on_fit_end(self, trainer, pl_module) -> None:
        losses = [float(torch.stack(some).mean()) for some in self.losses if some]
        count = sum(weight.numel() for weight in pl_module.parameters())
        found = self.clock.found(losses) | {"parameters": count}
        if trainer.is_global_zero:
            self.path.write_text(to_json(found, indent=2) + "\n")

    def _end_epoch(self, trainer: L.Trainer) -> None:
        if self.clock.start is not None:
            self.clock.end_epoch()
            logged = trainer.callback_metrics.get("train/loss")
            if not self.losses[-1] and logged is not None:  # the steps return no loss
                self.losses[-1].append(logged.clone())
            self.losses.append([])


def rows_in(batch: Any) -> int:
    """Return the number of rows in a batch: the length of its first tensor."""
    if hasattr(batch, "row"):
        return len(batch.row)
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return len(batch)
