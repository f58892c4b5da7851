"""What a training step is: from the members of a task (contract.py) to Lightning's hooks."""

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn

from . import contract
from .contract import Best
from .data.module import Data
from .data.rows import as_rows, joined, to_length
from .decisions import Decision, Decisions
from .errors import UserError
from .fast.compile import (
    CompileMode,
    compile_task,
    decide_compiling,
    stop_compiling,
)
from .fast.patches import Patches, clip_gradients
from .fast.settings import device_settings
from .fast.step_graph import StepGraph
from .model.checks import check_task
from .model.freeze import add_frozen_groups, freeze_parts, frozen_parts, keep_frozen
from .model.means import RunningTotals, ratio
from .model.recompute import recompute_blocks
from .ranks import rank_zero_only

say = rank_zero_only(functools.partial(print, flush=True))

# The members of a task that are methods; the first ones have no default.
REQUIRED = ("forward", "loss", "totals", "configure_optimizers")
METHODS = frozenset(name for name, member in vars(contract.Task).items() if callable(member))
METHODS -= {"forward", "configure_optimizers"}  # which Lightning itself replaces
# Lightning's hooks that a task leaves to the engine, and what to do instead.
ENGINES = {
    "configure_callbacks": "name callbacks in the recipe, under trainer.callbacks",
    "configure_gradient_clipping": "set trainer.gradient_clip_val, or write an optimizer_step",
}


@dataclass(frozen=True)
class TaskFlags:
    """The settings that the engine adds to those of any task: see cli/arguments.py."""

    compile: bool | CompileMode | None = None
    channels_last: bool = True
    activation_checkpointing: bool = False


class Task(L.LightningModule):
    """What a project's task derives from. contract.py says what each member is for."""

    network: nn.Module
    best: Best
    inputs: ClassVar[tuple[str, ...]]
    may_change: ClassVar[frozenset[str]] = frozenset()
    flags = TaskFlags()

    if TYPE_CHECKING:  # no default: check_members() names one that is missing

        def forward(self, batch: Any) -> Any: ...
        def loss(self, outputs: Any, batch: Any) -> Tensor | dict[str, Tensor]: ...
        def totals(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]: ...
        def configure_optimizers(self) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        self.learn: Callable[..., tuple[Tensor, dict[str, Tensor], Any]] = loss_and_outputs
        self.decisions: Decisions | None = None  # of the command line
        self.compile_decision = Decision(False, "not trained")
        self.running = RunningTotals()
        self.collected: list[tuple[Any, ...]] = []  # of an evaluation that has scores()
        self.parts_of_a_step = 1  # micro-batches, of all processes
        self.step_weight: Tensor | None = None  # of those so far
        self.step_graph: StepGraph | None = None  # while it takes the steps
        self.is_new_run = True  # until it has trained, or has taken a checkpoint's weights

    def initialize(self) -> str | None:
        return None

    def loss_weight(self, batch: Any) -> Tensor | None:
        return None

    def predict(self, outputs: Any) -> Tensor:
        return outputs

    def target(self, batch: Any) -> Tensor | None:
        return None

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {}

    def check(self, outputs: Any, batch: Any) -> str | None:
        return None

    def for_export(self) -> "Task":
        return self

    @property
    def may_differ(self) -> frozenset[str]:
        """The settings that may differ from a checkpoint's: the engine's own change no result."""
        return self.may_change | set(TaskFlags.__dataclass_fields__)

    def train(self, mode: bool = True) -> "Task":
        """Set the modes for training; what is frozen stays in eval mode."""
        super().train(mode)
        for part in self.children():
            keep_frozen(part)
        return self

    def take_flags(self, flags: TaskFlags) -> None:
        """Take the engine's settings: what they ask of the network is done to it from outside."""
        self.flags = flags
        if flags.activation_checkpointing:
            recompute_blocks(self.network)

    def configure_callbacks(self) -> list[L.Callback]:
        return [Preparation(), Patches()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.step_graph is not None:
            return self.step_graph.step(batch)
        loss, terms, outputs = self.learn(self, batch)
        if self.logs(self.trainer.global_step + 1):
            self.log_step(batch, outputs, loss, terms)
        return self._weighted(loss, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx, self.trainer.num_val_batches)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx, self.trainer.num_test_batches)

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return (row, target, prediction) of the batch's rows, without its padding."""
        real, predictions, targets = batch.row >= 0, self.predict(self(batch)), self.target(batch)
        return batch.row[real], None if targets is None else targets[real], predictions[real]

    def logs(self, step: int) -> bool:
        """Most steps log nothing: a value costs more host time than the rest of a step."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    @torch.no_grad()
    def log_step(self, batch: Any, outputs: Any, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Log the loss, its terms and the metrics of a batch, and the learning rate."""
        values = {"train/loss": loss.detach()}
        values |= {f"train/loss/{name}": term.detach() for name, term in terms.items()}
        for name, totals in self.totals(outputs, batch).items():
            if name != "loss":  # which mixed and smoothed labels make another than this one
                values[f"train/{name}"] = ratio(*totals)
        rate = torch.as_tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({**values, "lr": rate})

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if self.step_weight is not None:
            self._divide_by_weight(optimizer, self.step_weight)
            self.step_weight = None
        if gradient_clip_val:
            clip_gradients(self.trainer, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _weighted(self, loss: Tensor, batch: Any) -> Tensor:
        """Return the loss of a part of a step times its weight; Lightning divides by the parts."""
        if self.parts_of_a_step == 1 or (weight := self.loss_weight(batch)) is None:
            return loss
        weight = weight.detach() / len(batch.row)  # so that float16 does not overflow
        self.step_weight = weight if self.step_weight is None else self.step_weight + weight
        return loss * weight * self.trainer.accumulate_grad_batches

    def _divide_by_weight(self, optimizer: Any, total: Tensor) -> None:
        """Make gradients that were summed up with weights those of the whole step's mean."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)  # DDP has divided by the number of ranks
        total = total.where(total > 0, 1)  # a step without weight has gradients of 0
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.mul_(self.trainer.world_size / total)

    def _evaluate(self, split: str, batch: Any, batch_idx: int, batches: Any) -> None:
        """Count a batch's real rows; the last batch logs the split's metrics."""
        if batch_idx == 0:
            self.running, self.collected = RunningTotals(), []
        outputs = self(batch)
        self.running.add(self.totals(outputs, batch))
        if type(self).scores is not Task.scores:
            self.collected.append((batch.row, self.predict(outputs), self.target(batch)))
        if batch_idx + 1 < (batches[0] if isinstance(batches, list) else batches):
            return
        means = self.running.means()
        if self.collected:
            means |= {name: torch.tensor(float(v)) for name, v in self._scores().items()}
        values = {f"{split}/{name}": value for name, value in means.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def _scores(self) -> dict[str, float]:
        """Return scores() of all rows of all ranks, in order."""
        if any(part is None for part in self.collected[0]):
            raise UserError(f"{type(self).__name__} has scores(), which needs target() as well.")
        parts = [joined(part) for part in zip(*self.collected, strict=True)]
        if self.trainer.world_size > 1:
            parts = [_gathered(part) for part in parts]
        row, predictions, targets = (part.cpu() for part in parts)
        order = row.argsort(stable=True)[int((row < 0).sum()) :]
        if predictions.dtype in (torch.bfloat16, torch.float16):
            predictions = predictions.float()  # which other libraries can't read
        return self.scores(predictions[order], targets[order])


class Preparation(L.Callback):
    """Makes a task ready: for its device, with its flags, checked, with its weights, compiled."""

    learning: frozenset[str] = frozenset()  # the names of the weights that learn
    looked = False  # at which learn, since fit has begun
    frozen: list[str] | None = None  # modules, when the checkpoint was written
    saved_learning: Sequence[str] = ()  # and the weights that learned then

    def __init__(self) -> None:
        self.settings = ExitStack()  # to be put back when all is over

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        task: Any = pl_module
        check_instance(task)
        self.settings.enter_context(device_settings(trainer.strategy.root_device))
        if task.flags.channels_last:
            for tensor in (*task.network.parameters(), *task.network.buffers()):
                if tensor.ndim == 4:
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)
        if stage == "fit" and isinstance(trainer.datamodule, Data):
            data = trainer.datamodule
            check_task(task, as_rows(data.splits.train), data.facts())

    def on_fit_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Compile in place, so that the checkpoint's keys are those of the plain network."""
        task: Any = pl_module
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # DDP has spread the weights on a stream of its own
        if task.is_new_run and trainer.ckpt_path is None:
            self._initialize(trainer, task)
        task.is_new_run = False
        if task.flags.compile == "step-graph" and not _has_plain_step(task):
            raise UserError(
                "model.compile is step-graph, but the task has a training_step() of its own: leave"
                " it unset."
            )
        if task.decisions is not None:
            decision = task.decisions.compile
        elif task.automatic_optimization or task.flags.compile == "step-graph":
            decision = decide_compiling(trainer, task.flags.compile)
        else:
            decision = Decision(False, "the task optimizes by hand")
        task.compile_decision = decision
        self.learning, self.looked = _learning(task), False
        task.parts_of_a_step = trainer.accumulate_grad_batches * trainer.world_size
        if decision.value:
            say("The first step compiles the network: up to a minute, once.")
            task.learn = compile_task(task.network, loss_and_outputs, decision.value)

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """Log once an epoch at least; let what a task does at an epoch's start hold in a resume."""
        an_epoch = max(int(trainer.num_training_batches) // trainer.accumulate_grad_batches, 1)
        self.settings.callback(setattr, trainer, "log_every_n_steps", trainer.log_every_n_steps)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, an_epoch)
        if self.frozen is not None:  # after the optimizers, whose groups are those of the start
            freeze_parts(pl_module, self.frozen)
            for name, weight in pl_module.named_parameters():
                weight.requires_grad_(name in self.saved_learning)
            self.frozen = None
        if trainer.fit_loop.restarted_mid_epoch:
            pl_module.on_train_epoch_start()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx and self.looked:  # once an epoch, after the task's on_train_epoch_start
            return
        before, self.learning, self.looked = self.learning, _learning(pl_module), True
        if self.learning != before:
            self._follow(trainer, pl_module, self.learning - before)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if pl_module.learn is not loss_and_outputs:
            stop_compiling(pl_module.network)
            pl_module.learn = loss_and_outputs
        self.settings.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, trainer.state.fn)

    def on_save_checkpoint(
        self, trainer: Any, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["frozen"] = frozen_parts(pl_module)
        checkpoint["learning"] = sorted(_learning(pl_module))  # some may be frozen by hand

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.frozen = checkpoint.get("frozen")
        self.saved_learning = checkpoint.get("learning", ())
        if self.frozen is None:
            add_frozen_groups(checkpoint, pl_module.network)

    def _follow(self, trainer: Any, task: Any, new: frozenset[str]) -> None:
        """Let what looks at the weights once, at the start, see that others learn now."""
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        known = {id(weight) for group in groups for weight in group["params"]}
        lost = [name for name, p in task.named_parameters() if name in new and id(p) not in known]
        if lost:
            raise UserError(
                f"In epoch {trainer.current_epoch} {len(lost)} weights begin to learn that no"
                f" optimizer has, {lost[0]} the first of them. Give the optimizer all weights in"
                " configure_optimizers(), as engine.build_optimizer does: frozen ones too."
            )
        if trainer.world_size > 1:  # DDP exchanges the gradients of those that learned then
            trainer.strategy.model = task
            trainer.strategy.configure_ddp()
        for callback in trainer.callbacks:
            if isinstance(callback, StepGraph):
                callback.forget()

    def _initialize(self, trainer: Any, task: Any) -> None:
        """Load what a new run starts from; one process of a host first, which may download it."""
        said = task.initialize() if trainer.local_rank == 0 else None
        trainer.strategy.barrier()
        if trainer.local_rank != 0:
            task.initialize()
        if said:
            say(f"pretrained: {said}")


def loss_and_outputs(task: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
    """Return a batch's loss, its terms if it has some, and the outputs: compiled as one."""
    outputs = task.forward(batch)
    loss = task.loss(outputs, batch)
    if isinstance(loss, dict):
        return sum(loss.values()), loss, outputs  # type: ignore[return-value]
    return loss, {}, outputs


def _has_plain_step(task: Any) -> bool:
    return type(task).training_step is Task.training_step


def _learning(task: L.LightningModule) -> frozenset[str]:
    return frozenset(name for name, weight in task.named_parameters() if weight.requires_grad)


def check_members(task: type) -> None:
    """Raise UserError if a task lacks a member that has no default."""
    for name in REQUIRED:
        own = getattr(task, name, None)
        if own is None or own is getattr(L.LightningModule, name, None):
            raise UserError(f"{task.__name__} has no {name}(): see engine/contract.py.")
    if not hasattr(task, "inputs"):
        raise UserError(f"{task.__name__} has no inputs: see engine/contract.py.")
    for name, instead in ENGINES.items():
        if getattr(task, name) is not getattr(Task, name):
            raise UserError(
                f"{task.__name__} has {name}() of its own, as the engine has: {instead}."
            )


def check_instance(task: Any) -> None:
    """Raise UserError if a task keeps no settings, or an attribute hides one of its methods."""
    if not task.hparams_initial and inspect.signature(type(task)).parameters:
        raise UserError(
            f"{type(task).__name__} keeps no settings, without which its runs can't be resumed or"
            " evaluated. Call self.save_hyperparameters() in __init__, after super().__init__()."
        )
    own = vars(task) | vars(task)["_modules"] | vars(task)["_parameters"] | vars(task)["_buffers"]
    for name in sorted(METHODS & own.keys()):
        raise UserError(
            f"self.{name} is set to a {type(own[name]).__name__}, but the engine calls the method"
            f" {name}(). Give the attribute another name: self.{name}_function, say."
        )


def _gathered(part: Tensor) -> Tensor:
    """Return the rows of all ranks, which have equally many."""
    if part.ndim > 1:  # of other lengths, perhaps
        longest = torch.tensor(part.shape[1], device=part.device)
        torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX)
        part = to_length(part, int(longest))
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)
