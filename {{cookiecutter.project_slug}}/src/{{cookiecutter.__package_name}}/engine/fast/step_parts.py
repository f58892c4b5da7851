"""Training steps of several micro-batches, which follow each other or are on several devices.

A step adds up gradients, changes of running statistics and what is logged over its micro-batches:
in one buffer and, on several devices, with one all-reduce at its end. What is learned and logged
does not depend on how the micro-batches are divided among devices.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from ..model.means import ratio
from ..model.step_checks import check_loss
from .data_parallel import DataParallel
from .gradients import GradientBuffer, names_with_gradient
from .running_statistics import RunningStatistics

FEW = 32  # rows of the pass that finds which weights get a gradient

LossAndOutputs = Callable[[Any, Any], tuple[Tensor, dict[str, Tensor], Any]]


class StepParts(L.Callback):
    """Adds up what the micro-batches of a step give.

    A task that overrides training_step() logs for itself. With manual optimization it also adds up
    its gradients, and DataParallel averages them.

    Args:
        loss_and_outputs: returns loss, terms and outputs of (task, batch), and is not compiled.
        is_plain: whether the task leaves training_step() to the engine.
    """

    saved: tuple[Sequence[str], Set[str]] | None = None  # with a gradient, and all that learned
    micro_batches = 0  # of this step, so far

    def __init__(self, loss_and_outputs: LossAndOutputs, is_plain: bool) -> None:
        self.loss_and_outputs, self.is_plain = loss_and_outputs, is_plain
        self.reset()

    def reset(self) -> None:
        """Find out again which weights get a gradient, as some were frozen or unfrozen."""
        self.buffer: GradientBuffer | None = None
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.weight: Tensor | None = None  # of the loss, summed over micro-batches

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.parts, self.task = self, pl_module
        self.trainer, self.devices = trainer, trainer.world_size
        self.is_parallel = isinstance(trainer.strategy, DataParallel)
        parts = trainer.accumulate_grad_batches
        self.total = self.devices * parts  # micro-batches of a step
        self.seed: Tensor | None = None  # of the backward pass
        network = nn.Module() if self.total == 1 else pl_module.network
        self.statistics = RunningStatistics(network, several=parts > 1)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.parts = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        pl_module.parts = None

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if "with_gradient" in checkpoint:
            self.saved = checkpoint["with_gradient"], set(checkpoint["learning"])

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self.buffer is not None:
            checkpoint["with_gradient"] = self.buffer.used

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        parts, in_graph = trainer.accumulate_grad_batches, pl_module.step_graph is not None
        self.by_hand = not pl_module.automatic_optimization and not in_graph
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self.begins = self.by_hand or batch_idx % parts == 0
        self.ends = self.by_hand or (batch_idx + 1) % parts == 0 or is_last
        self.micro_batches = 1 if self.begins else self.micro_batches + 1
        if not self.begins:
            return
        if self.buffer is None and self.is_plain and not self.by_hand:
            self._prepare(batch)
        self.logs = pl_module.logs(trainer.global_step + 1)
        if self.logs:  # the rate may be a tensor, which the schedule changes
            self.rate = torch.as_tensor(trainer.optimizers[0].param_groups[0]["lr"]).clone()
        if not in_graph:
            self.start()

    def start(self) -> None:
        """Start a step."""
        if self.buffer is not None:
            self.buffer.start()
        if self.weight is not None:
            self.weight.zero_()
        self.statistics.start()

    def weigh(self, batch: Any, outputs: Any, loss: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """Return a micro-batch's loss times its weight. In a step that logs, add up what it logs.

        Lightning divides the loss by the number of micro-batches that follow each other.
        """
        if self.buffer is None:  # the task's own training_step() calls the engine's
            self._prepare(batch)
        weight = self.task.loss_weight(batch) if self.weight is not None else None
        share: Tensor | float = 1.0
        if weight is not None:
            share = weight.detach() / len(batch.row)  # keeps float16 from overflowing
            self.weight.add_(share)  # type: ignore[union-attr]
        if self.logs:
            with torch.no_grad():
                for name, (total, count) in self._totals(
                    batch, outputs, loss, terms, share
                ).items():
                    self.sums[name][0].add_(total)
                    self.sums[name][1].add_(count)
        return loss if weight is None else loss * share * self.trainer.accumulate_grad_batches

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a micro-batch's share in the mean loss of the step."""
        if self.seed is None or self.seed.dtype != loss.dtype:
            self.seed = torch.ones_like(loss.detach()) / self.total
        loss.backward(self.seed)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        if self.buffer is not None and not self.by_hand:
            self.buffer.expect()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if not self.by_hand:
            self.finish()

    def finish(self) -> None:
        """End a micro-batch, after its backward pass; the last one ends the step."""
        self.statistics.take(self.begins, self.ends)
        if self.buffer is not None:
            self.buffer.collect()
        if self.ends:
            self._end()

    def _end(self) -> None:
        """Add up the step's parts on all devices, and divide."""
        if self.buffer is None:  # the first step of a task with its own training_step()
            weights = _learning(self.task)
            changes = self.statistics.changes
            self.buffer = GradientBuffer(weights, self._used(weights), changes)
            for place, change in zip(self.buffer.more, changes, strict=True):
                place.copy_(change)
            self.statistics.changes = self.buffer.more
            self.buffer.collect()
        if self.is_parallel:
            self.buffer.sum_over_ranks()
        parts = self.trainer.accumulate_grad_batches
        if self.weight is not None:
            total = self.weight.where(self.weight > 0, 1)  # gradients are 0 if the total is
            self.buffer.multiply(self.devices / total)
        elif self.micro_batches != parts:  # an epoch's last step, cut off by a limit
            self.buffer.multiply(parts / self.micro_batches)
        self.statistics.update(self.micro_batches * self.devices)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.by_hand:
            self.statistics.take(self.begins, self.ends)
            for change in self.statistics.changes if self.is_parallel else ():
                torch.distributed.all_reduce(change)
            self.statistics.update(self.devices)
        if self.ends and self.logs and self.sums:
            values = {f"train/{name}": ratio(*sums) for name, sums in self.sums.items()}
            pl_module.log_dict({**values, "lr": self.rate})
            for part in itertools.chain(*self.sums.values()):
                part.zero_()  # for the next step that logs

    def _totals(
        self, batch: Any, outputs: Any, loss: Tensor, terms: dict[str, Tensor], share: Any
    ) -> dict[str, tuple[Any, Any]]:
        """Return what a micro-batch adds to the logged sums and counts."""
        totals: dict[str, Any] = {"loss": (loss.detach() * share, share)}
        totals |= {f"loss/{name}": (term.detach() * share, share) for name, term in terms.items()}
        # Mixed or smoothed labels make the loss in totals() differ from the trained loss.
        return self.task.totals(outputs, batch) | totals

    def _prepare(self, batch: Any) -> None:
        """Find which weights get a gradient and what is logged, and make room for both.

        A forward and a backward pass over a few rows find it; all they change is restored.
        """
        task, precision = self.task, self.trainer.precision_plugin
        few = batch._make(None if part is None else part[:FEW] for part in batch)
        device, buffers = task.device, [buffer.clone() for buffer in task.buffers()]
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
            with precision.train_step_context():
                loss, terms, outputs = self.loss_and_outputs(task, few)
                check_loss(task, loss, terms, outputs, few)
                with torch.no_grad():
                    totals = self._totals(few, outputs, loss, terms, 1.0)
                    weighs = task.loss_weight(few) is not None
            loss.backward()
        weights = _learning(task)
        used = self._used(weights)
        for weight in weights.values():
            weight.grad = None
        for buffer, before in zip(task.buffers(), buffers, strict=True):
            buffer.data.copy_(before)  # autograd may hold it for a backward pass
        self._make_room(weights, used, loss, totals, weighs)

    def _used(self, weights: Mapping[str, nn.Parameter]) -> Sequence[str]:
        """Return the weights that get a gradient, or what a checkpoint of the same weights says."""
        if self.saved is not None and self.saved[1] == weights.keys():
            return self.saved[0]
        return names_with_gradient(weights)

    def _make_room(
        self,
        weights: Mapping[str, nn.Parameter],
        used: Sequence[str],
        loss: Tensor,
        totals: dict[str, tuple[Any, Any]],
        weighs: bool,
    ) -> None:
        kind = torch.promote_types(loss.dtype, torch.float32)
        parts = [torch.as_tensor(part) for pair in totals.values() for part in pair]
        places = [torch.zeros(part.shape, dtype=kind, device=loss.device) for part in parts]
        changes = self.statistics.changes
        room = [*changes, *places, *([loss.new_zeros((), dtype=kind)] if weighs else [])]
        self.buffer = GradientBuffer(weights, used, room)
        found = iter(self.buffer.more)
        self.statistics.changes = [next(found) for _ in changes]
        self.sums = {name: (next(found), next(found)) for name in totals}
        self.weight = next(found) if weighs else None


def has_several_parts(trainer: Any) -> bool:
    """Return whether steps of this Trainer have several micro-batches that StepParts adds up.

    Lightning's own strategies for several devices add them up themselves.
    """
    ours = isinstance(trainer.strategy, DataParallel | SingleDeviceStrategy)
    return ours and trainer.world_size * trainer.accumulate_grad_batches > 1


def _learning(task: L.LightningModule) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in task.named_parameters() if weight.requires_grad}
