"""A run's training speed and its progress bar."""

import time

import lightning as L

from ..data.module import Data
from ..ranks import is_rank_zero
from ..run.metrics import metrics_of
from .bar import Display, Lines, display, time_left
from .clock import Clock


class Throughput(L.Callback):
    """Measures rows per second of training, over all devices and without validation.

    Each interval between validations starts after its first step, which may wait for the loader.
    """

    def __init__(self) -> None:
        self.clock: Clock | None = None
        self.seconds_to_first_step: float | None = None  # from the start of fit

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.begun = time.perf_counter()

    @property
    def rows_per_second(self) -> float | None:
        """The median of the intervals, without the first of several; None before one ends."""
        return self.clock.inside if self.clock else None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.clock = self.clock or Clock(pl_module.device)
        self.clock.step(len(batch.row) * trainer.world_size)
        if self.seconds_to_first_step is None and self.clock.start is not None:
            self.seconds_to_first_step = round(self.clock.start - self.begun, 2)

    def _end_interval(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.clock:
            self.clock.end_epoch()

    on_validation_start = on_train_epoch_end = on_train_end = _end_interval


class Progress(L.Callback):
    """Shows one bar for the whole run or, if the output is a file, prints a line a minute.

    It shows the newest values on the host and does not wait for those that the GPU still computes.
    """

    def __init__(self) -> None:
        self.display: Display | None = None  # on rank 0, during training

    def on_train_start(self, trainer, pl_module) -> None:
        self.parts, self.epoch_length = (
            trainer.accumulate_grad_batches,
            trainer.num_training_batches,
        )
        self.batches = trainer.estimated_stepping_batches * self.parts
        self.epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        if self.epochs:
            self.batches = min(self.batches, int(self.epoch_length) * trainer.max_epochs)
        self.progress = trainer.fit_loop.epoch_loop.batch_progress.total
        self.first_batch = self.progress.ready
        self.rows, self.begun_at = 0, 0.0
        data, best = trainer.datamodule, pl_module.best
        self.unit = data.facts().unit if isinstance(data, Data) else "rows"
        split, _, quantity = best.metric.partition("/")
        number_format = ".1%" if best.format.endswith("%") else best.format
        self.shown = {best.metric: (split, number_format), "train/loss": ("loss", ".3f")}
        self.shown |= {f"train/{quantity}": (quantity, number_format)}
        self.display = display() if is_rank_zero() else None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        now = time.perf_counter()
        if not self.begun_at:  # after the first step, which may have compiled
            self.begun_at = self.shown_at = now
            self.first_batch += 1
            return
        self.rows += len(batch.row) * trainer.world_size
        if self.display is not None and now - self.shown_at >= self.display.seconds:
            self._show(trainer, self.display)

    def on_train_end(self, trainer, pl_module) -> None:
        for log in metrics_of(trainer):
            log.fsync()  # waits for the last values
        if self.display is not None:
            self._show(trainer, self.display)
        self.on_exception()

    def on_exception(self, *_: object) -> None:
        if self.display is not None:
            self.display.close()
        self.display = None

    def _show(self, trainer: L.Trainer, display: Display) -> None:
        """Show the epoch, the metrics, the run's speed so far and the time left."""
        if not self.rows:
            return
        self.shown_at, batch = time.perf_counter(), min(self.progress.ready, self.batches)
        seconds = self.shown_at - self.begun_at
        left = seconds / max(batch - self.first_batch, 1) * (self.batches - batch)
        epoch = -(-int(batch) // int(self.epoch_length))
        extras = [f"epoch {epoch}{self.epochs}"]
        if isinstance(display, Lines):
            extras.append(f"step {self._steps(batch)}/{self._steps(self.batches)}")
        logged = metrics_of(trainer)
        known = logged[0].latest if logged else trainer.callback_metrics
        for key, (name, number_format) in self.shown.items():
            if key in known:
                extras.append(f"{name} {float(known[key]):{number_format}}")
        rate, remaining = f"{self.rows / seconds:,.0f}", time_left(left)
        needed = (f"{rate} {self.unit}/s", f"{remaining} left"), (f"{rate}/s", remaining)
        display.show(batch / self.batches, extras, needed)

    def _steps(self, batches: float) -> float:
        """Return the number of optimizer steps of so many batches; an epoch's last may be short."""
        if not isinstance(self.epoch_length, int):
            return batches // self.parts
        epochs, rest = divmod(batches, self.epoch_length)
        return epochs * -(-self.epoch_length // self.parts) + -(-rest // self.parts)
