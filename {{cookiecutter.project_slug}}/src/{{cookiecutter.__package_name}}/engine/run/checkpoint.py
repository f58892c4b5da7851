"""Choose which checkpoints a run keeps and when it writes them. A resume from any is exact.

A step can be resumed exactly from two places: after its update if no validation follows, and after
the validation. From other places, Lightning 2.6.6 loses a validation or skips an epoch. A run that
has to end in between is saved with a mark that makes it validate first.
"""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from ..errors import Diverged, UserError
from ..fast import patches
from ..ranks import is_rank_zero
from . import foreign
from .best import BestSoFar
from .checkpoint_files import BEST, LAST, VerifiedIO, keep_only_best
from .consensus import RankConsensus
from .ending import forget_elapsed_time
from .interruption import Interrupted, Interruption
from .metrics import metrics_of

MAX_TIME_SHARE = 0.02  # of the training time, spent on writing checkpoints
MIN_SECONDS, MAX_SECONDS = 20.0, 600.0  # between two checkpoints


class RunCheckpoint(Checkpoint):
    """Write best.ckpt (by the task's best metric), last.ckpt and previous.ckpt.

    A run that is interrupted, or that has reached step `until`, is saved and then ended. After
    `patience` validations without a better one, a run ends too. The best weights are copied on the
    device and written with the next checkpoint. `classes` are the names of the data's classes; they
    are saved with the weights.

    Args:
        seconds: between two checkpoints. Unset, 20 to 600, so that writing takes at most 2% of the
            time. Ctrl-C, SIGTERM and the end of the run always save.
        allow_nan: train on, and save, although the loss or the weights are not finite.
        keep: all, or best: once the run has finished, only its best weights. They can be evaluated
            and served; the run can't be resumed.
    """

    agrees_on_signals = True  # see fast/patches.py

    def __init__(
        self,
        folder: Path,
        interruption: Interruption,
        seconds: float | None = None,
        until: int | None = None,
        classes: Sequence[str] = (),
        allow_nan: bool = False,
        keep: Literal["all", "best"] = "all",
        patience: int | None = None,
    ) -> None:
        self.classes, self.allow_nan, self.keep = list(classes), allow_nan, keep
        self.folder, self.interruption = folder / "checkpoints", interruption
        self.seconds, self.until, self.consensus = seconds, until, RankConsensus()
        self.best_so_far = BestSoFar(patience)
        self.best: dict[str, Any] | None = None  # weights that are not written yet
        self.measured: dict[str, Any] | None = None  # weights, if validation swaps them
        self.due = self.validation_due = False
        self.measuring = False  # whether this epoch trains no weights
        self.end_reason: str | None = None  # set once all processes know
        self.io, self.saved_step, self.saved_at, self.seconds_saving = VerifiedIO(), -1, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {**self.best_so_far.state_dict(), "accumulate": self.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_so_far.load_state_dict(state_dict)

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Recount the batches of an elastic resume: its steps have more or fewer batches.

        max_time counts from the resume on.
        """
        forget_elapsed_time(checkpoint)
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
        trainer.strategy.checkpoint_io = self.io
        self.io.on_gpu = trainer.strategy.root_device.type == "cuda"
        self.accumulate = trainer.accumulate_grad_batches

    def on_train_start(self, trainer, pl_module) -> None:
        self.interruption.listen()  # Lightning has replaced the handlers with its own
        self.interruption.waits = True
        self.saved_at = time.monotonic()
        foreign.resume_averaging(trainer)
        trainer.should_stop |= self.best_so_far.out_of_patience  # it was killed as it ended
        for log in metrics_of(trainer):
            log.resume_from(trainer.global_step)
            log.epoch = trainer.current_epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.measuring:  # the weights stay: a resume repeats the epoch
            self._agree(trainer)
            self._end_if_asked(trainer)
            return
        if within_step(trainer):
            return
        self._agree(trainer)
        if self.until is not None and trainer.global_step >= self.until:
            self.end_reason = self.end_reason or f"--until {self.until}"
        last = batch_idx + 1 >= trainer.num_training_batches
        self.due |= trainer.global_step == trainer.max_steps
        self.due |= last and foreign.averages_next(trainer)
        if (self.due or self.end_reason) and not last and not validates_next(trainer):
            self._save_if_due(trainer, logged=False)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.measuring = patches.trains_no_weights(trainer)
        if self.measuring:  # StochasticWeightAveraging's last epoch
            trainer.limit_val_batches, trainer.log_every_n_steps = 0, 0

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        patches.follow_until_averaged(trainer)  # on_train_end may make the average the weights
        if not self.measuring:
            self._save_if_due(trainer)  # if no validation did
        for log in metrics_of(trainer):
            log.epoch = trainer.current_epoch + 1

    def on_validation_start(self, trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            patches.follow_until_averaged(trainer)
        if self.end_reason and _training(trainer) and not within_step(trainer):
            self.validation_due = True
            self._save_if_due(trainer)

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if not _training(trainer):
            return
        self._agree(trainer)
        if not foreign.swaps_weights(trainer):
            self.on_validation_start(trainer)
        elif batch_idx + 1 >= trainer.num_val_batches[dataloader_idx]:
            self.measured = self._weights(trainer)  # the trained ones are back at the end

    def on_validation_end(self, trainer, pl_module) -> None:
        if not _training(trainer):
            return
        best = trainer.lightning_module.best
        score = trainer.callback_metrics.get(best.metric)
        if score is None and not trainer.sanity_checking:
            known = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(
                f"{type(trainer.lightning_module).__name__}.best is '{best.metric}', but validation"
                f" logs only {', '.join(known)}. Name one of these, or log '{best.metric}'."
            )
        if score is not None and self.best_so_far.take(
            float(score), best.mode, trainer.current_epoch
        ):
            self.saved_step = -1
            measured = self.measured or self._weights(trainer)
            self.best = measured if is_rank_zero() else None
        self.measured = None
        if self.best_so_far.patience:  # rank 0 decides: a task may log another value on each
            over = trainer.strategy.broadcast(self.best_so_far.out_of_patience)
            trainer.should_stop |= over
        self._agree(trainer)
        if not within_step(trainer):
            self._save_if_due(trainer)

    def on_train_end(self, trainer, pl_module) -> None:
        if self.saved_step != trainer.global_step or foreign.may_end_with_other_weights(trainer):
            self._save(trainer)
        self.interruption.waits = False
        trainer.strategy.barrier()  # behind it, no rank passes a point
        self.consensus.close()

    def on_exception(self, *_: Any) -> None:
        self.interruption.waits = False
        self.io.settle()
        self.consensus.close()

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """If validation is due, make a resume start it at its first batch."""
        progress = patches.validation_progress(checkpoint)
        nothing = dict.fromkeys(("ready", "started", "processed", "completed"), 0)
        begun = nothing | {"ready": 1, "started": 1}
        progress |= {"total": begun if self.validation_due else nothing, "current": nothing}
        checkpoint |= self._identity(trainer)

    def drop_unneeded(self) -> None:
        """Delete the checkpoints that only a resume reads, if `keep` says so."""
        if self.keep == "best":
            keep_only_best(self.folder)

    def _identity(self, trainer: L.Trainer) -> dict[str, Any]:
        """Return classes and architecture, which a checkpoint stores to detect a misfit."""
        network = trainer.lightning_module.network
        return {"classes": self.classes, "architecture": str(network)}

    def _weights(self, trainer: Any) -> dict[str, Any]:
        """Return a copy of the weights as a checkpoint that can be evaluated or fine-tuned."""
        content = patches.weights_checkpoint(trainer)
        weights = content["state_dict"]  # with the layers' versions, needed to load it
        weights.update((name, t.detach().clone()) for name, t in weights.items())
        return content | self._identity(trainer)

    def _save_if_due(self, trainer: L.Trainer, logged: bool = True) -> None:
        if self.due or self.end_reason:
            if not logged:  # Lightning logs a step only after this hook
                patches.log_step_now(trainer)
            self._save(trainer)
        self._end_if_asked(trainer)

    def _end_if_asked(self, trainer: L.Trainer) -> None:
        """Raise Interrupted if the run has to end. The newest checkpoint is complete then."""
        if self.end_reason:
            self.io.wait()
            trainer.strategy.barrier()  # or torchrun would end rank 0 while it writes
            raise Interrupted(self.end_reason, saved=True)

    def _check_weights(self, trainer: L.Trainer, loss: str | None) -> None:
        """Raise Diverged if the weights are not finite; they are not saved."""
        weights = [w.detach().isfinite().all() for w in trainer.lightning_module.parameters()]
        if self.allow_nan or not weights or torch.stack(weights).all():
            return
        if self.best:
            self.io.write(self.best, self.folder / BEST)
        self.io.wait()
        what = loss or f"The weights are not finite after step {trainer.global_step}"
        saved = "No checkpoint was saved yet."
        if self.saved_step > 0:
            saved = f"The last checkpoint is of step {self.saved_step}."
        raise Diverged(
            f"{what}. {saved} Lower --model.learning_rate, or set --trainer.gradient_clip_val 1."
            " To train on regardless, add --allow-nan."
        )

    def _save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint from a copy, after everything that has to be on disk first."""
        begun = time.monotonic()
        self.io.wait()
        for log in metrics_of(trainer):
            log.fsync()  # a run resumed from here does not log these rows again
        self._check_weights(trainer, _loss_that_is_not_finite(trainer))
        patches.follow_until_averaged(trainer)
        best, self.best = self.best, None
        if best:
            self.io.write(best, self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)
        self.saved_step, self.due, self.saved_at = trainer.global_step, False, time.monotonic()
        self.seconds_saving += self.saved_at - begun

    def _seconds_between(self) -> float:
        adaptive = max(self.io.took / MAX_TIME_SHARE, MIN_SECONDS)
        if self.io.writing:
            adaptive = MAX_SECONDS
        return min(adaptive, MAX_SECONDS) if self.seconds is None else self.seconds

    def _agree(self, trainer: L.Trainer) -> None:
        """Find out, on all ranks alike, whether to save or to end the run."""
        self.io.collect()
        if loss := _loss_that_is_not_finite(trainer):
            self._check_weights(trainer, loss)  # of a step that weighs nothing, they are finite
        due = time.monotonic() >= self.saved_at + self._seconds_between()
        due = due and is_rank_zero() and not self.due
        received = 0 if self.end_reason else self.interruption.signal or 0
        received, due = self.consensus.agree((received, due))
        self.due |= due
        if received:
            self.end_reason = signal.Signals(received).name
            if self.consensus.several and is_rank_zero():
                print(f"\n{self.end_reason}: saving, then exiting.", file=sys.stderr)


def _loss_that_is_not_finite(trainer: L.Trainer) -> str | None:
    return next(filter(None, (log.not_finite() for log in metrics_of(trainer))), None)


def _training(trainer: L.Trainer) -> bool:
    """Return whether this validation is part of training."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def within_step(trainer: Any) -> bool:
    """Return whether gradients are accumulated but not applied: a checkpoint does not save them."""
    parts = trainer.accumulate_grad_batches
    if parts == 1:
        return False
    progress = trainer.fit_loop.epoch_loop.batch_progress
    done = progress.current.ready
    last = progress.is_last_batch or done == trainer.num_training_batches
    return done % parts != 0 and not last


def validates_next(trainer: Any) -> bool:
    """Return whether Lightning validates after this batch. The batch is not an epoch's last.

    Return False if validation follows the clock (val_check_interval is a time), not the steps.
    """
    loop, epochs = trainer.fit_loop, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (epochs and (trainer.current_epoch + 1) % epochs):
        return False
    if trainer.should_stop:  # it validates before it stops, if min_epochs and min_steps are done
        enough = loop.epoch_progress.current.processed >= (trainer.min_epochs or 0)
        if enough and trainer.global_step >= (trainer.min_steps or 0):
            return True
    if trainer.val_check_batch is None:
        return False
    batches = loop.epoch_loop.batch_idx if epochs else loop.epoch_loop.total_batch_idx
    return (batches + 1) % trainer.val_check_batch == 0
