"""The exponential moving average (EMA) of the weights, which is evaluated and saved in their place.

The update is part of the training step and waits for no device, so a CUDA graph can record it. On a
GPU it runs beside the next step's forward and backward pass, unless these change weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn


class WeightAverage(L.Callback):
    """The average of a task's weights, updated after each optimizer step, which it leaves alone.

    Validation measures the averages, best.ckpt holds them, and they are the task's weights when fit
    ends. In a checkpoint to resume from, `state_dict` holds them, and `averaging` the weights.
    Buffers, such as the statistics of batch normalization, are not averaged: the averages use those
    of the last step.

    After step t, an average moves by max(1 - decay, 9 / (10 + t)) of the way to its weight: decay
    rises from 2/11, so that the initial weights don't count for long. TensorFlow's
    ExponentialMovingAverage has the same warm-up. Averages of 16-bit weights are float32.

    Args:
        decay: how much an average keeps of itself in a step, after the warm-up.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.averages: dict[nn.Parameter, Tensor] = {}
        self.trained: dict[nn.Parameter, Tensor] | None = None  # set while averages replace them
        self.saved: dict[str, Tensor] = {}  # averages in the checkpoint that fit resumes from
        self.updates = 0
        self.due = False  # whether the last step is not averaged yet
        self.began = False  # whether a step was computed since training started
        self.changed_within = False  # whether a forward or backward pass has changed weights

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or "averaging" not in checkpoint:
            return
        updates, trained = checkpoint["averaging"].values()
        self.updates = int(updates)
        self.saved = {name: checkpoint["state_dict"][name] for name in trained}
        for name, weight in pl_module.named_parameters():
            if name in trained:
                weight.data.copy_(trained[name])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.weight_average, self.step = self, trainer.global_step
        self.share = torch.zeros((), dtype=torch.float32, device=pl_module.device)
        self.told = 0.0  # what `share` holds
        self.due = self.began = self.changed_within = False
        on_gpu = pl_module.device.type == "cuda"
        self.stream = torch.cuda.Stream(pl_module.device) if on_gpu else None
        for name, weight in pl_module.named_parameters():
            if name in self.saved:
                self._add(weight, self.saved[name])
        self.saved = {}

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin to average weights that have not been trained before, at the start of an epoch."""
        for weight in pl_module.parameters() if batch_idx == 0 else ():
            if weight.requires_grad and weight not in self.averages:
                self._add(weight, weight)

    def prepare(self) -> None:
        """Tell the device how far the next update goes: not at all if none is due.

        The host tells it because a graph that computed this would take longer.
        """
        self.updates += self.due
        share = max(1 - self.decay, 9 / (self.updates + 10)) if self.due else 0.0
        if share != self.told:
            self.share.fill_(share)
        self.due, self.told = False, share

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Average the last step's weights beside the block, or before it if it changes weights.

        That it does is seen at its end: the first block of a training has nothing to average yet,
        and a graph of such a block has to be recorded again.
        """
        before, beside = self._versions(), None if self.changed_within else self.stream
        if beside is not None:
            beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # None: the current one
            self._update()
        yield
        if beside is not None:
            torch.cuda.current_stream().wait_stream(beside)
        if before != self._versions():
            self.changed_within = True
        self.began = True

    def _versions(self) -> list[int]:
        """Return numbers that differ if weights were changed: for the first block, of their bits.

        autograd counts changes, but not those of weight.data.
        """
        if self.began:
            return [weight._version for weight in self.averages]
        parts = [weight.detach().flatten().view(torch.uint8).sum() for weight in self.averages]
        return torch.stack(parts).tolist() if parts else []

    def step_ends(self) -> None:
        """Note that the optimizer has changed the weights."""
        self.due = True

    def settle(self) -> None:
        """Average the last step's weights now, if that is due."""
        if self.averages and self.due:
            self.prepare()
            self._update()

    @torch.no_grad()
    def _update(self) -> None:
        """Move the averages towards the weights, as far as `prepare` has said.

        average -= share * (average - weight) is what SGD computes with the weight, negated, as
        gradient, a weight decay of 1 and the share as learning rate. torch has it as one kernel
        for all weights that reads the share on the device; its lerps would need one for each.
        """
        pairs = [(average, weight.to(average.dtype)) for weight, average in self.averages.items()]
        plain = [pair for pair in pairs if _are_alike(*pair)]
        options: Any = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
        options |= {"maximize": True, "is_first_step": False}
        if plain:
            averages, weights = map(list, zip(*plain, strict=True))
            torch._fused_sgd_(averages, weights, [], lr=self.share, weight_decay=1.0, **options)
        for average, weight in pairs:
            if not _are_alike(average, weight):
                average.lerp_(weight, self.share.to(average.dtype))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.step_graph is None and trainer.global_step > self.step:
            self.step_ends()
            self.settle()
        self.step = trainer.global_step

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.settle()
        self.trained = {weight: weight.detach().clone() for weight in self.averages}
        self._set_weights(self.averages)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.trained is not None:
            self._set_weights(self.trained)
        self.trained = None

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.settle()
        self._set_weights(self.averages)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.settle()
        weights, trained = checkpoint["state_dict"], {}
        for name, weight in pl_module.named_parameters(remove_duplicate=False):  # tied ones too
            if weight in self.averages and name in weights:
                trained[name] = weights[name] if self.trained is None else self.trained[weight]
                weights[name] = self.averages[weight]
        checkpoint["averaging"] = {"updates": self.updates, "weights": trained}

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.weight_average, self.averages, self.saved, self.updates = None, {}, {}, 0

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "fit")

    def _add(self, weight: nn.Parameter, content: Tensor) -> None:
        kind = torch.promote_types(weight.dtype, torch.float32)
        average = torch.empty_like(weight, dtype=kind, requires_grad=False)
        self.averages[weight] = average.copy_(content.detach())

    def _set_weights(self, contents: dict[nn.Parameter, Tensor]) -> None:
        """Copy in place: CUDA graphs read the weights where they are."""
        for weight, content in contents.items():
            weight.data.copy_(content)


def _are_alike(average: Tensor, weight: Tensor) -> bool:
    """Return whether an optimizer's kernel takes both."""
    return average.stride() == weight.stride() and not average.is_complex()
