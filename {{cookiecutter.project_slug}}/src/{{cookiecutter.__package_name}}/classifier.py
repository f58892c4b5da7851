"""The Lightning module: a network, how it learns, how it is measured, and how it is made fast."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.nn import functional as F

from .engine import hardware
from .engine.data.batch import PADDING_LABEL, Batch
from .engine.errors import UserError
from .engine.fast.lean_module import LeanModule
from .engine.images.module import ImageData
from .engine.images.torchvision_networks import weights_file
from .engine.model.backbones import freeze_all_but_head, head_of, load_pretrained, recompute_blocks
from .engine.model.checks import check_network
from .engine.model.means import MeanOverImages, loss_and_logits
from .engine.model.optimizers import OptimizerName, ScheduleName, build_optimizer, build_schedule
from .networks import build_network

_say = rank_zero_only(functools.partial(print, flush=True))

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "step-graph"]


class ImageClassifier(LeanModule):
    """Train a network to name what an image shows.

    Args:
        network: a name from networks.py, or of one of torchvision's classification networks.
        num_classes: how many classes; the command line takes it from the data.
        small_images: use the network's stem for images of about 32 by 32 pixels and less.
        pretrained: start from torchvision's weights for this network (true), or from a file's: a
            state dict or a run's checkpoint. Read when training starts, never when it goes on.
        freeze_backbone: only the head learns; all else stays as it is, in eval mode.
        activation_checkpointing: recompute blocks in the backward pass: less memory, more time.
        optimizer: sgd (with Nesterov's momentum) or adamw.
        learning_rate: the highest of the run, for the global batch.
        weight_decay: on weights only, never on biases and normalization.
        momentum: of sgd.
        schedule: one_cycle, cosine or constant, each after the warm-up.
        warmup: share of the steps in which the learning rate rises from nothing to its highest.
        label_smoothing: share of the target that is spread over all classes.
        compile: true, false, a mode of torch.compile, or step-graph for the whole step in one CUDA
            graph; unset, decided by the hardware and by the length of the run.
        channels_last: keep weights channels last in memory, as images are and GPUs and CPUs prefer.
    """

    def __init__(
        self,
        network: str = "small_cnn",
        num_classes: int | None = None,
        small_images: bool = False,
        pretrained: bool | str = False,
        freeze_backbone: bool = False,
        activation_checkpointing: bool = False,
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
        if activation_checkpointing:
            recompute_blocks(self.network.body, network)
        if freeze_backbone:
            freeze_all_but_head(self.network.body, num_classes)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learn: Callable[..., tuple[Tensor, Tensor]] = loss_and_logits
        self.compiled_with: tuple[str | None, str] = (None, "not trained")
        self.eval_loss, self.eval_accuracy = MeanOverImages(), MeanOverImages()
        self.starts_fresh = True  # until it has trained, or has taken a checkpoint's weights
        self.classes: list[str] | None = None  # of the data, or else of the checkpoint
        self.train()

    def train(self, mode: bool = True) -> "ImageClassifier":
        """Set the modes for training; a frozen backbone stays in eval mode."""
        super().train(mode)
        if mode and self.hparams["freeze_backbone"]:
            self.network.eval()
            head_of(self.network.body)[1].train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, num_classes) for uint8 images (n, 3, height, width)."""
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, logits = self.loss_of(batch)
        if self.logs(self.trainer.global_step + 1):
            self.log_step(loss.detach(), (logits.argmax(1) == batch.labels).float().mean())
        return loss

    def loss_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a training batch's loss and logits (n, num_classes): all that step-graph uses."""
        return self.learn(self.network, batch, self.hparams["label_smoothing"])

    def log_step(self, loss: Tensor, accuracy: Tensor) -> None:
        rate = torch.as_tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy, "lr": rate})

    def logs(self, step: int) -> bool:
        """Most steps log nothing: a value costs more host time than the rest of a step."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

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
        self.log_dict({f"{split}/loss": self.eval_loss, f"{split}/accuracy": self.eval_accuracy})

    def setup(self, stage: str) -> None:
        if self.trainer.strategy.root_device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 wherever float32 is left
            # nvJPEG's own streams wait for whatever runs on the default one.
            torch.cuda.set_stream(torch.cuda.Stream(self.trainer.strategy.root_device))
        data, options = self.trainer.datamodule, self.hparams  # type: ignore[attr-defined]
        if isinstance(data, ImageData):
            self.classes, size = list(data.splits.classes), data.image_shape[:2]
            if stage == "fit":
                check_network(self.network, options["network"], size, options["num_classes"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"], checkpoint["built"] = self.classes, str(self.network)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.classes, self.starts_fresh = checkpoint["classes"], False

    def on_fit_start(self) -> None:
        """Compile in place, so that the checkpoint's keys are those of the plain network."""
        strategy, options = self.trainer.strategy, self.hparams
        if strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # DDP has spread the weights on a stream of its own
        if self.starts_fresh and options["pretrained"]:
            if self.trainer.local_rank == 0:  # which downloads what is not there
                weights_file(options["network"], options["pretrained"])
            strategy.barrier()
            file = weights_file(options["network"], options["pretrained"])
            _say(f"pretrained: {load_pretrained(self.network.body, file)}")
        self.starts_fresh = False
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        steps, kind = self.trainer.estimated_stepping_batches, strategy.root_device.type
        mode, why = self.compiled_with = hardware.compile_mode(
            hardware.this_machine(), kind, parts, steps, options["compile"]
        )
        _say(f"torch.compile {mode or 'off'}: {why}")
        if mode is not None:
            _say("The first step compiles the network: up to a minute, once.")
            how: dict[str, Any] = {"mode": mode.replace("step-graph", "default"), "dynamic": False}
            self.learn = torch.compile(loss_and_logits, **how)
            self.network.compile(**how)  # for evaluation

    def configure_optimizers(self) -> Any:
        options = self.hparams
        chosen = ("optimizer", "learning_rate", "weight_decay", "momentum")
        optimizer = build_optimizer(self.network, *(options[key] for key in chosen))
        shape, steps = options["schedule"], self.trainer.estimated_stepping_batches
        schedule = build_schedule(optimizer, shape, options["warmup"], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip under fused optimizers too, which Lightning 2.6.6 refuses (its issue 21435)."""
        plugin = self.trainer.precision_plugin
        scaler = getattr(plugin, "scaler", None)
        if gradient_clip_val and scaler and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # which they do inside their step: too late
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
