"""What every run does beside training: seed each step, measure its speed, show its progress."""

import statistics
import sys
import time

import lightning as L
import torch
from tqdm.auto import tqdm

from .tracking import MetricsCSV

SECONDS_BETWEEN_UPDATES = 0.5  # of the bar
SECONDS_BETWEEN_LINES = 10.0  # where the output is a file


class StepSeed(L.Callback):
    """Seed what is random inside the network (dropout) from the run's seed, the step and the rank.

    So a step draws the same numbers whether the run came to it without a break or was resumed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        step = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        seed = (self.seed * 1_000_003 + step) * 4096 + trainer.global_rank
        device = pl_module.device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        torch.default_generator.manual_seed(seed)


class Throughput(L.Callback):
    """Images per second of training over all devices, epoch by epoch, without validation.

    The clock of an epoch starts after its first step, which waits for the loader and may compile.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.images, self.start, self.paused = 0, 0.0, 0.0
        self.seconds_to_first_step: float | None = None  # from fit's start to that step's end

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.begun = time.perf_counter()

    @property
    def images_per_second(self) -> float | None:
        """The median of the epochs, the first apart if there are more; None before one is over."""
        return statistics.median(self.rates[1:] or self.rates) if self.rates else None

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.images, self.start, self.paused = 0, 0.0, 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not self.start:
            self.start = _now(pl_module.device)
            if self.seconds_to_first_step is None:
                self.seconds_to_first_step = round(self.start - self.begun, 2)
            return
        self.images += len(batch.labels) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:
            self._end_epoch(pl_module.device)

    def on_validation_start(self, trainer, pl_module) -> None:
        self.paused -= _now(pl_module.device)

    def on_validation_end(self, trainer, pl_module) -> None:
        self.paused += _now(pl_module.device)

    def on_train_end(self, trainer, pl_module) -> None:
        self._end_epoch(pl_module.device)  # one that max_steps cut short

    def _end_epoch(self, device: torch.device) -> None:
        if self.images:
            self.rates.append(self.images / (_now(device) - self.start - self.paused))
        self.images = 0


def _now(device: torch.device) -> float:
    """Return the time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Progress(L.Callback):
    """One bar for the whole run; where the output is a file, a line now and then.

    It shows what was logged last, which is on its way to the host since then: nothing waits.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.bar: tqdm | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        an_epoch = max(int(trainer.num_training_batches) // trainer.accumulate_grad_batches, 1)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, an_epoch)  # or it has no loss
        self.steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        if (trainer.max_epochs or 0) > 0:
            self.steps = min(self.steps, int(trainer.num_training_batches) * trainer.max_epochs)
        self.first_step = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self.images = self.shown_images = self.begun_images = 0
        self.shown_at = self.begun_at = 0.0
        if self.live and trainer.is_global_zero:
            layout = "{percentage:3.0f}%|{bar:24}| {desc}"
            self.bar = tqdm(total=self.steps, initial=self.first_step, bar_format=layout)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.images += len(batch.labels) * trainer.world_size
        if not self.begun_at:  # after the first step, which may have compiled
            self.begun_at = self.shown_at = time.perf_counter()
            self.shown_images = self.begun_images = self.images
            self.first_step += 1
        wait = SECONDS_BETWEEN_UPDATES if self.live else SECONDS_BETWEEN_LINES
        if time.perf_counter() - self.shown_at >= wait:
            self._show(trainer)

    def on_train_end(self, trainer, pl_module) -> None:
        self.shown_at, self.shown_images = self.begun_at, self.begun_images  # the whole run's speed
        self._show(trainer)
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer, pl_module, exception) -> None:
        if self.bar is not None:
            self.bar.close()

    def _show(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero or not self.images:
            return
        now = time.perf_counter()
        step = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        rate = (self.images - self.shown_images) / max(now - self.shown_at, 1e-9)
        left = (now - self.begun_at) / max(step - self.first_step, 1) * (self.steps - step)
        epoch = -(-step // int(trainer.num_training_batches))
        where = f"epoch {epoch}" + (
            f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        )
        latest = [log.latest for log in trainer.loggers if isinstance(log, MetricsCSV)]
        metrics = latest[0] if latest else trainer.callback_metrics
        values = {name: float(value) for name, value in metrics.items()}
        text = describe(values, rate, left)
        self.shown_at, self.shown_images = now, self.images
        if self.bar is not None:
            self.bar.set_description_str(f"{where}  {text}", refresh=False)
            self.bar.update(step - self.bar.n)
            self.bar.refresh()
        else:
            print(f"{where}  step {step}/{self.steps}  {text}", flush=True)


def describe(values: dict[str, float], images_per_second: float, seconds_left: float) -> str:
    """Return the progress in words: loss, accuracies, speed, time left."""
    parts = []
    if "train/loss" in values:
        parts += [f"loss {values['train/loss']:.3f}", f"acc {values['train/accuracy']:.1%}"]
    if "val/accuracy" in values:
        parts.append(f"val acc {values['val/accuracy']:.1%}")
    minutes, seconds = divmod(round(seconds_left), 60)
    return "  ".join([*parts, f"{images_per_second:,.0f} img/s", f"{minutes}:{seconds:02} left"])
