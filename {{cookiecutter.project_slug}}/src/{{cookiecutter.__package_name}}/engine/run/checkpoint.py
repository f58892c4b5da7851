"""Which checkpoints a run keeps and when it writes them, so that it goes on exactly from any.

A step can be resumed exactly from two places: after its update where no validation follows it, and
after the validation. Lightning 2.6.6 loses a validation, or skips an epoch, from others. A run that
has to end in between is saved with a mark that makes it validate first.
"""

import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler

from ..errors import UserError
from ..fast import patches
from ..ranks import is_rank_zero
from .checkpoint_files import BEST, LAST, VerifiedIO
from .interruption import Agreement, Interrupted, Interruption
from .metrics import metrics_of

SHARE_OF_TIME = 0.02  # that writing may take
SOONEST, LATEST = 20.0, 600.0  # seconds from one checkpoint to the next


class RunCheckpoint(Checkpoint):
    """Keeps best.ckpt by the task's best metric, last.ckpt and previous.ckpt, and ends a run that
    is interrupted, or has reached step `until`, when it is saved. The best weights wait as a copy
    on the device until then. `classes` are the names of the data's, kept with the weights.

    Args:
        seconds: from one checkpoint to the next; unset, as few as 20, up to 600, such that writing
            takes at most 2% of the time. Ctrl-C, SIGTERM and the run's end save in any case.
    """

    agrees_on_signals = True  # see fast/patches.py

    def __init__(
        self,
        folder: Path,
        interruption: Interruption,
        seconds: float | None = None,
        until: int | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.classes = list(classes)
        self.folder, self.interruption = folder / "checkpoints", interruption
        self.seconds, self.until, self.agreement = seconds, until, Agreement()
        self.best_score: float | None = None
        self.best: dict[str, Any] | None = None  # waits to be written
        self.due = self.validation_due = False
        self.ends: str | None = None  # why, once all processes know
        self.io, self.saved_step, self.saved_at, self.seconds_saving = VerifiedIO(), -1, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "accumulate": self.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Count the batches of an elastic resume, whose steps consist of more or fewer, anew."""
        before = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("accumulate")
        if trainer.state.fn != "fit" or before in (None, trainer.accumulate_grad_batches):
            return
        progress = patches.training_progress(checkpoint)
        for counts in (progress["total"], progress["current"]):
            open_ = counts["processed"] - counts["completed"]  # 1 if saved before the batch's end
            batches = counts["processed"] // before * trainer.accumulate_grad_batches
            counts |= dict.fromkeys(("ready", "started", "processed"), batches)
            counts["completed"] = batches - open_

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        if any(isinstance(each, GradientAccumulationScheduler) for each in trainer.callbacks):
            raise UserError("GradientAccumulationScheduler changes the global batch: leave it out.")
        trainer.strategy.checkpoint_io = self.io
        self.io.on_gpu = trainer.strategy.root_device.type == "cuda"
        self.accumulate = trainer.accumulate_grad_batches

    def on_train_start(self, trainer, pl_module) -> None:
        self.interruption.listen()  # Lightning has put its own handler in front
        self.interruption.waits = True
        self.saved_at = time.monotonic()
        for log in metrics_of(trainer):
            log.go_on_from(trainer.global_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if within_step(trainer):
            return
        self._agree(trainer)
        if self.until is not None and trainer.global_step >= self.until:
            self.ends = self.ends or f"--until {self.until}"
        self.due |= trainer.global_step == trainer.max_steps
        last = batch_idx + 1 >= trainer.num_training_batches
        if (self.due or self.ends) and not last and not validates_next(trainer):
            self._save_if_due(trainer, logged=False)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self._save_if_due(trainer)  # if no validation did

    def on_validation_start(self, trainer, *_: Any) -> None:
        if self.ends and _training(trainer) and not within_step(trainer):
            self.validation_due = True
            self._save_if_due(trainer)

    def on_validation_batch_end(self, trainer, *_: Any) -> None:
        if _training(trainer):
            self._agree(trainer)
            self.on_validation_start(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        if not _training(trainer):
            return
        best = trainer.lightning_module.best
        score = trainer.callback_metrics.get(best.metric)
        if score is None and not trainer.sanity_checking:
            known = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(
                f"{type(trainer.lightning_module).__name__}.best is '{best.metric}', which no"
                f" validation has. It has {', '.join(known)}."
            )
        if score is not None and self._is_better(float(score), best.mode):
            self.best_score, self.saved_step = float(score), -1
            self.best = self._weights(trainer) if is_rank_zero() else None
        self._agree(trainer)
        if not within_step(trainer):
            self._save_if_due(trainer)

    def on_train_end(self, trainer, pl_module) -> None:
        if self.saved_step != trainer.global_step:
            self._save(trainer)
        self.io.wait()
        self.interruption.waits = False

    def on_exception(self, *_: Any) -> None:
        self.interruption.waits = False

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Where validation is due, let Lightning go back to its first batch when it resumes."""
        progress = patches.validation_progress(checkpoint)
        nothing = dict.fromkeys(("ready", "started", "processed", "completed"), 0)
        begun = nothing | {"ready": 1, "started": 1}
        progress |= {"total": begun if self.validation_due else nothing, "current": nothing}
        checkpoint |= self._identity(trainer)

    def _identity(self, trainer: L.Trainer) -> dict[str, Any]:
        """Return what a checkpoint holds beside its weights, to tell what these fit."""
        network = trainer.lightning_module.network
        return {"classes": self.classes, "architecture": str(network)}

    def _is_better(self, score: float, mode: str) -> bool:
        if self.best_score is None:
            return not math.isnan(score)
        return score > self.best_score if mode == "max" else score < self.best_score

    def _weights(self, trainer: Any) -> dict[str, Any]:
        """Return a copy of the weights as a checkpoint to evaluate or to start from."""
        content = patches.weights_checkpoint(trainer)
        weights = content["state_dict"]  # and its layers' versions, which some need to load it
        weights.update((name, t.detach().clone()) for name, t in weights.items())
        return content | self._identity(trainer)

    def _save_if_due(self, trainer: L.Trainer, logged: bool = True) -> None:
        if self.due or self.ends:
            if not logged:  # Lightning logs a step after this hook
                patches.log_step_now(trainer)
            self._save(trainer)
        if self.ends:
            self.io.wait()
            trainer.strategy.barrier()  # or torchrun would end the first, which writes
            raise Interrupted(self.ends, saved=True)

    def _save(self, trainer: L.Trainer) -> None:
        """Let a copy be written; what the run's files had to hold before it, they hold."""
        begun, best, self.best = time.monotonic(), self.best, None
        self.io.wait()
        self.io.took = 0.0
        for log in metrics_of(trainer):
            log.to_disk()  # a run that resumes from here will not log these rows again
        if best:
            self.io.write(best, self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)
        self.saved_step, self.due, self.saved_at = trainer.global_step, False, time.monotonic()
        self.seconds_saving += self.saved_at - begun

    def _seconds_between(self) -> float:
        few = LATEST if self.io.writing else max(self.io.took / SHARE_OF_TIME, SOONEST)
        return min(few, LATEST) if self.seconds is None else self.seconds

    def _agree(self, trainer: L.Trainer) -> None:
        """Notice if it is time to save, or to end the run."""
        self.io.wait(for_all=False)
        due = time.monotonic() >= self.saved_at + self._seconds_between()
        heard, due = self.agreement.reach(trainer, self.interruption.signal or 0, due)
        self.due |= due
        if heard:
            self.ends = signal.Signals(heard).name


def _training(trainer: L.Trainer) -> bool:
    """Return whether a validation is one within training."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def within_step(trainer: Any) -> bool:
    """Return whether there are gradients that await their step: a checkpoint does not hold them."""
    parts = trainer.accumulate_grad_batches
    if parts == 1:
        return False
    progress = trainer.fit_loop.epoch_loop.batch_progress
    done = progress.current.ready
    last = progress.is_last_batch or done == trainer.num_training_batches
    return done % parts != 0 and not last


def validates_next(trainer: Any) -> bool:
    """Return whether Lightning validates after this batch, which is not an epoch's last.

    By the clock (val_check_interval as a time) none is due at a certain step: False.
    """
    loop, epochs = trainer.fit_loop, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (epochs and (trainer.current_epoch + 1) % epochs):
        return False
    if trainer.should_stop:  # it validates before it stops, unless it has to train on
        enough = loop.epoch_progress.current.processed >= (trainer.min_epochs or 0)
        if enough and trainer.global_step >= (trainer.min_steps or 0):
            return True
    if trainer.val_check_batch is None:
        return False
    batches = loop.epoch_loop.batch_idx if epochs else loop.epoch_loop.total_batch_idx
    return (batches + 1) % trainer.val_check_batch == 0
