"""The Lightning module: a network, how it learns, how it is measured, and how it is made fast."""

from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from . import hardware
from .data.resident import PADDING_LABEL, Batch
from .errors import UserError
from .networks import build_network
from .optimizers import OptimizerName, ScheduleName, build_optimizer, build_schedule

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class ImageClassifier(L.LightningModule):
    """Train a network to name what an image shows.

    Args:
        network: a name from networks.py.
        num_classes: how many classes; the command line takes it from the data.
        small_images: use the network's stem for images of about 32 by 32 pixels and less.
        optimizer: sgd (with Nesterov's momentum) or adamw.
        learning_rate: the highest of the run, for the global batch.
        weight_decay: on weights only, never on biases and normalization.
        momentum: of sgd.
        schedule: one_cycle, cosine or constant, each after the warm-up.
        warmup: share of the steps in which the learning rate rises from nothing to its highest.
        label_smoothing: share of the target that is spread over all classes.
        compile: true, false, or a mode of torch.compile; unset, decided by the hardware and by the
            length of the run.
        channels_last: keep weights and images channels last in memory, as GPUs and CPUs prefer.
    """

    def __init__(
        self,
        network: str = "small_cnn",
        num_classes: int | None = None,
        small_images: bool = False,
        optimizer: OptimizerName = "sgd",
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        momentum: float = 0.9,
        schedule: ScheduleName = "one_cycle",
        warmup: float = 0.2,
        label_smoothing: float = 0.0,
        compile: bool | CompileMode | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_classes is None:
            raise UserError("model.num_classes is not set, and there are no data to take it from.")
        self.network = build_network(network, num_classes, small_images)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.compiled_with: tuple[str | None, str] = (None, "not trained")
        self.eval_loss, self.eval_accuracy = MeanOverImages(), MeanOverImages()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, num_classes) for uint8 images (n, 3, height, width)."""
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch.images)
        smoothing = self.hparams["label_smoothing"]
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        # A logged value costs more host time than the rest of a step, so most steps log nothing.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:
            accuracy = (logits.argmax(1) == batch.labels).float().mean()
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.log_dict({"train/loss": loss.detach(), "train/accuracy": accuracy, "lr": rate})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return (index, label, probabilities) of the batch's images, without its padding."""
        real = batch.labels != PADDING_LABEL
        probabilities = self(batch.images).float().softmax(1)
        return batch.indices[real], batch.labels[real], probabilities[real]

    def _evaluate(self, batch: Batch, split: str) -> None:
        """Count the batch's real images into the split's mean loss and accuracy, on the device."""
        logits = self(batch.images)
        images = (batch.labels != PADDING_LABEL).sum()
        loss = F.cross_entropy(logits, batch.labels, ignore_index=PADDING_LABEL, reduction="sum")
        self.eval_loss.update(loss, images)
        self.eval_accuracy.update((logits.argmax(1) == batch.labels).sum(), images)
        self.log_dict(
            {f"{split}/loss": self.eval_loss, f"{split}/accuracy": self.eval_accuracy},
            on_step=False,
            on_epoch=True,
        )

    def setup(self, stage: str) -> None:
        if self.trainer.strategy.root_device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 wherever float32 is left

    def on_fit_start(self) -> None:
        """Compile in place, so that the checkpoint's keys are those of the plain network."""
        mode, why = hardware.compile_mode(
            hardware.this_machine(),
            self.trainer.strategy.root_device.type,
            self.trainer.world_size,
            self.trainer.estimated_stepping_batches,
            self.hparams["compile"],
        )
        self.compiled_with = (mode, why)
        rank_zero_only(print)(f"torch.compile {mode or 'off'}: {why}", flush=True)
        if mode is not None:
            rank_zero_only(print)("The first step compiles the network: up to a minute, once.")
            self.network.compile(mode=mode, dynamic=False)

    def configure_optimizers(self) -> Any:
        options = self.hparams
        optimizer = build_optimizer(
            self.network,
            options["optimizer"],
            options["learning_rate"],
            options["weight_decay"],
            options["momentum"],
        )
        schedule = build_schedule(
            optimizer,
            options["schedule"],
            options["warmup"],
            self.trainer.estimated_stepping_batches,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip under fused optimizers too, which Lightning 2.6.6 refuses (its issue 21435).

        A fused optimizer would undo the float16 scaling inside its step; clipping needs it undone
        before, and the scaler remembers that it was.
        """
        if not gradient_clip_val:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)


class MeanOverImages(Metric):
    """A mean over all images of all ranks, without ever waiting for the device.

    torchmetrics' own MeanMetric waits to look for NaN, and told not to look it forgets the weights
    (version 1.9.0).
    """

    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, images: Tensor) -> None:
        """Add the sum of a value over that many images."""
        self.total += total
        self.images += images

    def compute(self) -> Tensor:
        return self.total / self.images
