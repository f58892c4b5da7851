"""The base class of tasks: it implements Lightning's hooks with the members of contract.py."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from . import contract
from .contract import Best, Facts
from .data.module import Data
from .data.rows import as_rows, joined, to_length
from .decisions import STEP_GRAPHS, STEP_VERSION, Decision, Decisions
from .errors import UserError
from .fast.compile import (
    CompileMode,
    compile_task,
    decide_compiling,
    stop_compiling,
)
from .fast.patches import Patches, clip_gradients, equalize_step_counts
from .fast.settings import device_settings
from .fast.step_graph import StepGraph, reason_against, restore_plain_options
from .fast.step_parts import StepParts, has_several_parts
from .model.average import WeightAverage
from .model.best import chosen_best, logged_metrics
from .model.checks import check_task
from .model.class_totals import are_kept
from .model.freeze import add_frozen_groups, freeze_parts, frozen_parts, keep_frozen
from .model.means import RunningTotals, ratio
from .model.recompute import recompute_blocks
from .model.single_values import normalize_single_values
from .model.step_checks import check_loss, check_own_loss, warning_of, without_gradient
from .ranks import rank_zero_only

SINGLE_VALUES = (
    "note: data.batch_size is 1. Where a layer of batch normalization gets a single value per"
    " channel, it uses its running mean and variance, and doesn't update them."
)
print_once = rank_zero_only(functools.partial(print, flush=True))

# The methods of a task. Those in REQUIRED have no default.
REQUIRED = ("forward", "loss", "totals", "configure_optimizers")
METHODS = frozenset(name for name, member in vars(contract.Task).items() if callable(member))
METHODS -= {"forward", "configure_optimizers"}  # Lightning itself sets these attributes
# Lightning's hooks that belong to the engine, and what a task can do instead.
ENGINES = {
    "configure_callbacks": "name callbacks in the recipe, under trainer.callbacks",
    "configure_gradient_clipping": "set trainer.gradient_clip_val, or write an optimizer_step",
}


@dataclass(frozen=True)
class TaskFlags:
    """The settings that the engine adds to those of every task: see cli/arguments.py."""

    compile: bool | CompileMode | None = None
    channels_last: bool = True
    activation_checkpointing: bool = False
    ema: float | None = None


class Task(L.LightningModule):
    """The base class of a project's task. contract.py describes each member."""

    network: nn.Module
    best: Best
    inputs: ClassVar[tuple[str, ...]]
    may_change: ClassVar[frozenset[str]] = frozenset()
    flags = TaskFlags()

    if TYPE_CHECKING:  # no default: check_members() reports one that is missing

        def forward(self, batch: Any) -> Any: ...
        def loss(self, outputs: Any, batch: Any) -> Tensor | dict[str, Tensor]: ...
        def totals(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]: ...
        def configure_optimizers(self) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        self.train_step: Callable[..., tuple[Tensor, dict[str, Tensor], Any]] = loss_and_outputs
        self.decisions: Decisions | None = None  # set by the command line
        self.compile_decision = Decision(False, "not trained")
        self.running = RunningTotals()
        self.collected: list[tuple[Any, ...]] = []  # row, prediction and target of each batch
        self.asked_best: str | None = None  # the metric that selects the best weights instead
        self.measured: Facts | None = None  # set if validate and test keep predictions
        self.evaluated: tuple[Tensor, Tensor] | None = None  # these, and the rows' targets
        self.parts_per_step = 1  # micro-batches of all processes
        self.step_weight: Tensor | None = None  # sum over this step's micro-batches so far
        self.parts: StepParts | None = None  # set if a step has several micro-batches
        self.weight_average: WeightAverage | None = None  # set while a fit averages the weights
        self.step_graph: StepGraph | None = None  # set while it runs the training steps
        self.when_initialized: Callable[[str], None] = print_once  # gets the line of initialize()
        self.is_new_run = True  # False after training or loading a checkpoint's weights

    def initialize(self) -> str | None:
        return None

    def eval_totals(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return {}

    def loss_weight(self, batch: Any) -> Tensor | None:
        return None

    def predict(self, outputs: Any) -> Tensor:
        return outputs

    def target(self, batch: Any) -> Tensor | None:
        return None

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {}

    @property
    def has_scores(self) -> bool:
        return type(self).scores is not Task.scores

    def check(self, outputs: Any, batch: Any) -> str | None:
        return None

    def artifacts(self) -> Mapping[str, Path | bytes]:
        return {}

    def for_export(self) -> "Task":
        return self

    @property
    def may_differ(self) -> frozenset[str]:
        """The settings that may differ from a checkpoint's: may_change and most of the engine's."""
        return self.may_change | set(TaskFlags.__dataclass_fields__) - {"ema"}

    def train(self, mode: bool = True) -> "Task":
        """Set training or eval mode; frozen modules stay in eval mode."""
        super().train(mode)
        for part in self.children():
            keep_frozen(part)
        return self

    def take_flags(self, flags: TaskFlags) -> None:
        """Store the engine's settings and apply activation checkpointing to the network.

        Raises UserError if ema is out of range.
        """
        if flags.ema is not None and not 0 < flags.ema < 1:
            raise UserError(
                f"model.ema is {flags.ema}; expected a number above 0 and below 1, such as 0.999."
            )
        self.flags = flags
        if flags.activation_checkpointing:
            recompute_blocks(self.network)

    def configure_callbacks(self) -> list[L.Callback]:
        callbacks = [Preparation(), Patches()]
        if self.flags.ema is not None:
            callbacks.append(WeightAverage(self.flags.ema))
        version = self.decisions.step_version.value if self.decisions else STEP_VERSION
        if version > 1 and has_several_parts(self.trainer):
            callbacks.insert(1, StepParts(loss_and_outputs, has_plain_step(self)))
        return callbacks

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.step_graph is not None:
            return self.step_graph.step(batch)
        loss, terms, outputs = self.train_step(self, batch)
        check_loss(self, loss, terms, outputs, batch)
        if self.parts is not None:
            return self.parts.weigh(batch, outputs, loss, terms)
        if self.logs(self.trainer.global_step + 1):
            self.log_step(batch, outputs, loss, terms)
        return self._weighted(loss, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx, self.trainer.num_val_batches)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx, self.trainer.num_test_batches)

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return (row, target, prediction) of the batch without its padding."""
        real, predictions, targets = batch.row >= 0, self.predict(self(batch)), self.target(batch)
        return batch.row[real], None if targets is None else targets[real], predictions[real]

    def logs(self, step: int) -> bool:
        """Return whether a step logs. Most don't: logging costs more host time than the step."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    @torch.no_grad()
    def log_step(self, batch: Any, outputs: Any, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Log a batch's loss, the loss's terms, the metrics and the learning rate."""
        values = {"train/loss": loss.detach()}
        values |= {f"train/loss/{name}": term.detach() for name, term in terms.items()}
        for name, totals in self.totals(outputs, batch).items():
            if name != "loss":  # mixed or smoothed labels make it differ from the trained loss
                values[f"train/{name}"] = ratio(*totals)
        rate = torch.as_tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({**values, "lr": rate})

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self.parts is None or self.parts.buffer is None:
            optimizer.zero_grad()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if self.step_weight is not None:
            self._divide_by_weight(optimizer, self.step_weight)
            self.step_weight = None
        if gradient_clip_val:
            clip_gradients(self.trainer, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _weighted(self, loss: Tensor, batch: Any) -> Tensor:
        """Return a micro-batch's loss times its weight; Lightning divides by their number."""
        if self.parts_per_step == 1 or (weight := self.loss_weight(batch)) is None:
            return loss
        weight = weight.detach() / len(batch.row)  # keeps float16 from overflowing
        self.step_weight = weight if self.step_weight is None else self.step_weight + weight
        return loss * weight * self.trainer.accumulate_grad_batches

    def _divide_by_weight(self, optimizer: Any, total: Tensor) -> None:
        """Divide the weighted sum of gradients by the step's total weight."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)  # DDP has divided gradients by the world size
        total = total.where(total > 0, 1)  # gradients are 0 if the total is
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.mul_(self.trainer.world_size / total)

    def _evaluate(self, split: str, batch: Any, batch_idx: int, batches: Any) -> None:
        """Add a batch's totals; after the last batch, log the split's metrics."""
        if batch_idx == 0:
            self.running, self.collected = RunningTotals(), []
        outputs = self(batch)
        self.running.add(self.totals(outputs, batch))
        self.running.add(self.eval_totals(outputs, batch))
        if self.has_scores or self.measured is not None:
            found = self.predict(outputs), self.target(batch)
            if self.has_scores or are_kept(*found, self.measured):
                self.collected.append((batch.row, *found))
        if batch_idx + 1 < (batches[0] if isinstance(batches, list) else batches):
            return
        means = self.running.means()
        if self.collected:
            rows = self._rows_in_order()
            if self.has_scores:
                means |= {name: torch.tensor(float(v)) for name, v in self.scores(*rows).items()}
            if are_kept(*rows, self.measured):
                self.evaluated = rows
        values = {f"{split}/{name}": value for name, value in means.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def _rows_in_order(self) -> tuple[Tensor, Tensor]:
        """Return predictions and targets of the rows of all ranks, in the split's order."""
        if any(part is None for part in self.collected[0]):
            raise UserError(
                f"{type(self).__name__}.target() returned None, but scores() needs targets:"
                " write target()."
            )
        parts = [joined(part) for part in zip(*self.collected, strict=True)]
        if self.trainer.world_size > 1:
            parts = [_gather_ranks(part) for part in parts]
        row, predictions, targets = (part.cpu() for part in parts)
        order = row.argsort(stable=True)[int((row < 0).sum()) :]
        if predictions.dtype in (torch.bfloat16, torch.float16):
            predictions = predictions.float()  # metric libraries can't read 16-bit floats
        return predictions[order], targets[order]


class Preparation(L.Callback):
    """Prepares a task for a run: device settings, flags, checks, initial weights, compilation."""

    trainable: frozenset[str] = frozenset()  # the names of the weights with gradients
    compared = False  # whether `trainable` was compared with the weights in this fit
    untrained_known = False  # whether the weights without gradient were looked for
    frozen: list[str] | None = None  # the loaded checkpoint's frozen modules
    saved_trainable: Sequence[str] = ()  # the loaded checkpoint's trainable weights

    def __init__(self) -> None:
        self.settings = ExitStack()  # restored in teardown

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        task: Any = pl_module
        check_instance(task)
        self.settings.enter_context(device_settings(trainer.strategy.root_device))
        if task.flags.channels_last:
            for tensor in (*task.network.parameters(), *task.network.buffers()):
                if tensor.ndim == 4:
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)
        logged: list[str] | None = None
        if stage == "fit" and isinstance(trainer.datamodule, Data):
            data = trainer.datamodule
            if data.batch_size == 1 and normalize_single_values(task.network):
                print_once(SINGLE_VALUES)
            size = check_task(task, as_rows(data.splits.train), data.facts())
            print_once(f"network: {size}\n")
            if task.asked_best and type(task).validation_step is Task.validation_step:
                logged = logged_metrics(task, as_rows(data.splits.train))
        if task.asked_best:
            task.best = chosen_best(task.asked_best, task.best, logged)

    def on_fit_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Initialize and compile the network, in place, so that checkpoint keys don't change."""
        task: Any = pl_module
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # DDP has broadcast the weights on another stream
        if task.is_new_run and trainer.ckpt_path is None:
            self._initialize(trainer, task)
        task.is_new_run = False
        if task.flags.compile in STEP_GRAPHS and not has_plain_step(task):
            raise UserError(
                f"model.compile is {task.flags.compile}, but the task overrides training_step():"
                " leave it unset."
            )
        if task.decisions is not None:
            decision = task.decisions.compile
        elif task.automatic_optimization or task.flags.compile in STEP_GRAPHS:
            decision = decide_compiling(
                trainer, task.flags.compile, has_several_parts(trainer) and has_plain_step(task)
            )
        else:
            decision = Decision(False, "the task optimizes by hand")
        if decision.value in STEP_GRAPHS and (reason := reason_against(trainer, task)):
            if task.flags.compile in STEP_GRAPHS:
                raise UserError(f"model.compile is {decision.value}, but {reason}: leave it unset.")
            instead = "reduce-overhead" if decision.value == "step-graph" else False
            decision = Decision(instead, f"no step graph, because {reason}")
            print_once(f"torch.compile: {instead or 'off'}: {decision.why}.")
        task.compile_decision = decision
        self.trainable, self.compared = _trainable(task), False
        self.untrained_known = False
        task.parts_per_step = trainer.accumulate_grad_batches * trainer.world_size
        if decision.value and decision.value != "eager-graph":
            print_once("The first step compiles the network: up to a minute, once.")
            task.train_step = compile_task(task.network, loss_and_outputs, decision.value)

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Log at least once per epoch. After a resume, freeze what was frozen when it was saved.

        After a resume within an epoch, also repeat the task's on_train_epoch_start.
        """
        steps = max(int(trainer.num_training_batches) // trainer.accumulate_grad_batches, 1)
        self.settings.callback(setattr, trainer, "log_every_n_steps", trainer.log_every_n_steps)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, steps)
        if self.frozen is not None:  # after the optimizers, whose groups match the run's start
            freeze_parts(pl_module, self.frozen)
            for name, weight in pl_module.named_parameters():
                weight.requires_grad_(name in self.saved_trainable)
            self.frozen = None
        if trainer.fit_loop.restarted_mid_epoch:
            pl_module.on_train_epoch_start()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx and self.compared:  # once per epoch, after the task's on_train_epoch_start
            return
        check_batch(batch)
        before, self.trainable, self.compared = self.trainable, _trainable(pl_module), True
        if self.trainable != before:
            self._update_trainable(trainer, pl_module, self.trainable - before)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        if not has_plain_step(pl_module):
            check_own_loss(pl_module, loss)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self.untrained_known and pl_module.automatic_optimization:
            self._name_untrained(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.untrained_known and pl_module.step_graph is not None:
            self._name_untrained(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            check_batch(batch)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if pl_module.train_step is not loss_and_outputs:
            stop_compiling(pl_module.network)
            pl_module.train_step = loss_and_outputs
        self.settings.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, trainer.state.fn)

    def on_save_checkpoint(
        self, trainer: Any, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["frozen"] = frozen_parts(pl_module)
        checkpoint["learning"] = sorted(_trainable(pl_module))  # some may be frozen by hand

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        equalize_step_counts(checkpoint)
        restore_plain_options(checkpoint)
        self.frozen = checkpoint.get("frozen")
        self.saved_trainable = checkpoint.get("learning", ())
        if self.frozen is None:
            add_frozen_groups(checkpoint, pl_module.network)

    def _update_trainable(self, trainer: Any, task: Any, new: frozenset[str]) -> None:
        """Rebuild what depends on which weights learn; `new` ones were just unfrozen.

        Raises UserError if no optimizer has a weight that was unfrozen.
        """
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        known = {id(weight) for group in groups for weight in group["params"]}
        missing = [n for n, p in task.named_parameters() if n in new and id(p) not in known]
        if missing:
            raise UserError(
                f"{len(missing)} weights were unfrozen in epoch {trainer.current_epoch} that no"
                f" optimizer has, such as {missing[0]}. Give the optimizer all weights in"
                " configure_optimizers(), frozen ones too, as engine.build_optimizer does."
            )
        if task.parts is not None:
            task.parts.reset()
        elif isinstance(trainer.strategy, DDPStrategy):  # DDP reduces gradients of the same weights
            trainer.strategy.model = task
            trainer.strategy.configure_ddp()
        if task.step_graph is not None:
            task.step_graph.reset()
        self.untrained_known = False

    def _name_untrained(self, trainer: Any, task: Any) -> None:
        """Print which weights got no gradient in the first step. Sharded ones can't be told."""
        names: list[str] | None = []
        if isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            names = without_gradient(task)
        self.untrained_known = names is not None
        if names:
            print_once(warning_of(names))

    def _initialize(self, trainer: Any, task: Any) -> None:
        """Load a new run's weights: first in one process per host, which may download them."""
        message = task.initialize() if trainer.local_rank == 0 else None
        trainer.strategy.barrier()
        if trainer.local_rank != 0:
            task.initialize()
        if message:
            task.when_initialized(message)


def loss_and_outputs(task: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
    """Return a batch's loss, the loss's terms ({} if it has none) and the outputs.

    This function is compiled as one graph.
    """
    outputs = task.forward(batch)
    loss = task.loss(outputs, batch)
    if isinstance(loss, dict) and loss and all(isinstance(each, Tensor) for each in loss.values()):
        return sum(loss.values()), loss, outputs  # type: ignore[return-value]
    return loss, {}, outputs


def has_plain_step(task: Any) -> bool:
    return type(task).training_step is Task.training_step


def _trainable(task: L.LightningModule) -> frozenset[str]:
    return frozenset(name for name, weight in task.named_parameters() if weight.requires_grad)


def check_members(task: type) -> None:
    """Raise UserError if a task lacks a member without a default or overrides an engine's hook."""
    for name in REQUIRED:
        own = getattr(task, name, None)
        if own is None or own is getattr(L.LightningModule, name, None):
            raise UserError(f"{task.__name__} has no {name}(): see engine/contract.py.")
    if not hasattr(task, "inputs"):
        raise UserError(f"{task.__name__} has no inputs: see engine/contract.py.")
    for name, instead in ENGINES.items():
        if getattr(task, name) is not getattr(Task, name):
            raise UserError(
                f"{task.__name__} has {name}() of its own, but the engine needs it: {instead}."
            )


def check_batch(batch: Any) -> None:
    """Raise UserError if a batch is not a named tuple with a field `row`."""
    if hasattr(batch, "row") and hasattr(batch, "_replace"):
        return
    raise UserError(
        f"A batch is a {type(batch).__name__}; expected a named tuple with a field 'row', the index"
        " of each row in its split: a DataLoader's collate_fn must return one, such as"
        " ImageBatch(images, labels, row). See engine/contract.py."
    )


def check_instance(task: Any) -> None:
    """Raise UserError if a task saved no hyper-parameters, or an attribute hides a method."""
    if not task.hparams_initial and inspect.signature(type(task)).parameters:
        raise UserError(
            f"{type(task).__name__} saves no settings, so its runs can't be resumed or evaluated."
            " Call self.save_hyperparameters() in __init__, after super().__init__()."
        )
    own = vars(task) | vars(task)["_modules"] | vars(task)["_parameters"] | vars(task)["_buffers"]
    for name in sorted(METHODS & own.keys()):
        raise UserError(
            f"self.{name} is set to a {type(own[name]).__name__}, but the engine calls the method"
            f" {name}(). Give the attribute another name, such as self.{name}_function."
        )


def _gather_ranks(part: Tensor) -> Tensor:
    """Return the rows of all ranks. Every rank must have the same number of rows."""
    if part.ndim > 1:  # the lengths of the ranks may differ
        longest = torch.tensor(part.shape[1], device=part.device)
        torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX)
        part = to_length(part, int(longest))
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)
