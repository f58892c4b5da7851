"""A training step, compiled or not, as one CUDA graph: forward, backward, optimizer and schedule.

The host then launches one graph per step instead of some hundred kernels, or one per micro-batch if
a step has several. Lightning does not see a graph's replay, so this module counts the steps for it
and steps the schedule.

A graph repeats what was recorded. So each version of the step's code, each set of the optimizer's
options and each shape of a batch gets its own: step_versions.py tells versions of the code apart.
"""

import copy
import random
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from ..decisions import STEP_GRAPHS
from ..model.step_checks import check_loss
from ..ranks import is_rank_zero
from .data_parallel import DataParallel
from .patches import detects_anomalies, step_counts
from .step_parts import StepParts
from .step_versions import StepVersions

EAGER_STEPS = 3  # training steps before the capture: they compile and allocate lasting memory
# Telling versions of the code apart takes some seconds, which recording must save: so many of eager
# steps must be left.
SECONDS_THAT_PAY = 10.0
MOST_VERSIONS = 8  # of the code and the optimizer's options; torch.compile has the same limit


class Recorded(NamedTuple):
    """A graph of a step or micro-batch, the batch that it reads, and what it computes."""

    graph: torch.cuda.CUDAGraph
    batch: Any
    results: Any

    def replay(self, batch: Any) -> Any:
        """Train on a batch, and return loss, terms and outputs."""
        for static, part in zip(self.batch, batch, strict=True):
            if static is not None and part is not None:
                static.copy_(part)
        self.graph.replay()
        return self.results


class StepGraph(L.Callback):
    """Runs a task's training steps if its compile decision is step-graph or eager-graph.

    The first steps run eagerly, then each kind of step is captured when it first occurs.

    Args:
        loss_and_outputs: returns loss, terms and outputs of (task, batch), and is not compiled.
    """

    automatic = True  # the task's automatic_optimization before

    def __init__(self, loss_and_outputs: Callable[[Any, Any], Any]) -> None:
        self.loss_and_outputs = loss_and_outputs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.compile_decision.value not in STEP_GRAPHS:
            return
        self.compiled = pl_module.compile_decision.value == "step-graph"
        self.model, self.device = pl_module, pl_module.device
        self.automatic = pl_module.automatic_optimization
        pl_module.automatic_optimization, pl_module.step_graph = False, self
        self.counts = step_counts(trainer)
        self.optimizer, self.stream = pl_module.optimizers(), torch.cuda.Stream(self.device)
        for group in self.optimizer.param_groups:  # a tensor: the graph reads each new rate
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
            group |= {"capturable": True} if "capturable" in group else {}
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(self.device)
        self.reset()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Drop the graphs if weights have moved to other memory, at the start of an epoch."""
        if pl_module.step_graph is None or batch_idx:
            return
        if self._addresses() != self.places:
            self.reset()

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if pl_module.step_graph is not None:
            pl_module.automatic_optimization, pl_module.step_graph = self.automatic, None
            self.reset()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def reset(self) -> None:
        """Drop the graphs, so that the next steps capture new ones."""
        self.steps, self.versions = 0, StepVersions(self.loss_and_outputs)
        # None: not known yet. Several ranks must do the same, and each measures other times.
        self.pays = True if self.compiled or self.model.trainer.world_size > 1 else None
        self.prepared = False  # for all lengths
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self.pool: Any = None
        self.example: Any = None  # the batch by which the code is asked: shapes are told apart here
        self.places = self._addresses()
        self.numbers: dict[Hashable, int] = {}  # of versions of the code and the options
        self.batches: dict[Any, Any] = {}  # which the graphs read, by their shapes
        self.graphs: dict[Any, Recorded] = {}

    def step(self, batch: Any) -> Tensor:
        """Train on a batch and return its loss."""
        parts, average = self.model.parts, self.model.weight_average
        begins, ends = parts is None or parts.begins, parts is None or parts.ends
        if ends:
            for count in self.counts:
                count.increment_ready()
        recorded = self._recorded(batch, begins)
        if average is not None and begins:
            average.prepare()
        if recorded is None:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss, terms, outputs = self._train_step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            loss, terms, outputs = recorded.replay(batch)
        if ends:
            self._end_step(batch, outputs, loss, terms)
        return loss

    def _recorded(self, batch: Any, begins: bool) -> "Recorded | None":
        """Return the graph for this batch; None if it is early, or there can be none."""
        if begins and not self.compiled:
            self._time_eager_steps()
        if self.steps < EAGER_STEPS or not self.pays:
            return None
        version = self._number_of_version(batch)
        if begins and not self.prepared and version is not None:
            self._prepare_lengths(version)
        return None if version is None else self._graph(batch, version)

    def _end_step(self, batch: Any, outputs: Any, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Count the step, log it if that is due, and set the next learning rates."""
        if self.model.weight_average is not None:
            self.model.weight_average.step_ends()
        self.steps += 1
        for count in self.counts:
            count.increment_completed()
        if self.model.parts is None and self.model.logs(self.model.global_step):
            terms = {name: term.clone() for name, term in terms.items()}
            self.model.log_step(batch, outputs, loss.clone(), terms)
        for schedule in self.model.trainer.lr_scheduler_configs:
            schedule.scheduler.step()

    def _addresses(self) -> list[int]:
        """Return where in memory the weights and buffers are."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return [tensor.data_ptr() for tensor in tensors]

    def _time_eager_steps(self) -> None:
        """Without compiling, record only if that takes less time than it will save."""
        for step, event in zip((1, EAGER_STEPS), self.events, strict=True):
            if self.steps == step:
                event.record()
        if self.steps < EAGER_STEPS or self.pays is not None or not self.events[1].query():
            return
        seconds = self.events[0].elapsed_time(self.events[1]) / 1000 / (EAGER_STEPS - 1)
        trainer = self.model.trainer
        left = trainer.estimated_stepping_batches - trainer.global_step
        self.pays = left * seconds >= SECONDS_THAT_PAY

    def _number_of_version(self, batch: Any) -> int | None:
        """Return the number of what a step computes, or None if a graph might miss a change."""
        options = self._options()
        if self.versions.problem:
            return None
        if self.example is None:
            self.example = copy.deepcopy(batch)
        version = self.versions.of(self.model, self.example)
        number = self.numbers.setdefault((version, options), len(self.numbers))
        if self.versions.problem:
            self._give_up(f"a change of what they compute might be missed: {self.versions.problem}")
        elif number >= MOST_VERSIONS:
            self._give_up(f"settings of network or optimizer have changed {number} times")
        return None if self.versions.problem else number

    def _give_up(self, reason: str) -> None:
        """Record no more graphs, and say why."""
        self.versions.problem = reason
        if is_rank_zero():
            print(f"note: steps are no longer recorded as CUDA graphs: {reason}.", flush=True)

    def _options(self) -> Hashable:
        """Return the optimizer's options. Learning rates are put back into the graph's tensors."""
        found = []
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if group["lr"] is not rate:
                rate.fill_(group["lr"])
                group["lr"] = rate
            options = ((name, group[name]) for name in group if name not in ("params", "lr"))
            found.append(tuple(each for each in options if not isinstance(each[1], Tensor)))
        return str(found)

    def _prepare_lengths(self, version: int) -> None:
        """If rows differ in length, compile for each length of a batch now, and record its graph.

        What this computes is dropped, so that the result does not depend on it.
        """
        self.prepared = True
        loader = self.model.trainer.train_dataloader
        batches = loader.of_each_length() if hasattr(loader, "of_each_length") else []
        if not batches:
            return
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        before = [buffer.clone() for buffer in self.model.buffers()]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.random.fork_rng(devices=[self.device]), torch.cuda.stream(self.stream):
            for batch in batches:
                loss, _, _ = self.model.train_step(self.model, batch)
                torch.autograd.grad(loss, weights, allow_unused=True)
        torch.cuda.current_stream().wait_stream(self.stream)
        for buffer, content in zip(self.model.buffers(), before, strict=True):
            buffer.data.copy_(content)
        for batch in batches:
            self._graph(batch, version)

    def _graph(self, batch: Any, version: int) -> "Recorded | None":
        """Return the graph of steps, or of micro-batches, of this kind. Record it if there is none.

        Return None if a step can't be recorded: it waits for the GPU, copies to it, or draws random
        numbers on the CPU, which the graph would repeat.
        """
        if self.versions.problem:
            return None
        parts = self.model.parts
        shapes = tuple(None if part is None else part.shape for part in batch)
        role = parts and (parts.begins, parts.ends and parts.micro_batches, parts.logs)
        kind = version, shapes, role
        if shapes not in self.batches:
            self.batches[shapes] = copy.deepcopy(batch)
        if kind not in self.graphs:
            graph, self.pool = torch.cuda.CUDAGraph(), self.pool or torch.cuda.graph_pool_handle()
            if parts is None:
                self.optimizer.optimizer.zero_grad(set_to_none=True)
            # thread_local: the loader's thread keeps copying during the capture
            how: Any = {"stream": self.stream, "capture_error_mode": "thread_local"}
            before, reason, drawn = torch.cuda.current_stream(), "", _random_state()
            average = self.model.weight_average
            known = average is not None and average.changed_within
            with isolate_rng(include_cuda=False):
                try:
                    with torch.cuda.graph(graph, pool=self.pool, **how):
                        results = self._train_step(self.batches[shapes])
                except RuntimeError as error:
                    torch.cuda.set_stream(before)
                    torch.cuda.synchronize(self.device)
                    reason = str(error.__context__ or error).partition("\n")[0]
                if not reason and _random_state() != drawn:
                    reason = "they draw random numbers on the CPU"
            if reason:
                self._give_up(reason)
                return None
            if average is not None and average.changed_within != known:
                return self._graph(batch, version)  # the average comes first now
            self.graphs[kind] = Recorded(graph, self.batches[shapes], results)
        return self.graphs[kind]

    def _train_step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
        torch.clear_autocast_cache()  # it holds casts of the weights before the last step
        optimizer, parts = self.optimizer.optimizer, self.model.parts
        average = self.model.weight_average
        begins, ends = parts is None or parts.begins, parts is None or parts.ends
        with average.beside() if average is not None and begins else nullcontext():
            if parts is None:
                optimizer.zero_grad(set_to_none=True)
            elif parts.begins:
                parts.start()
            loss, terms, outputs = self.model.train_step(self.model, batch)
            check_loss(self.model, loss, terms, outputs, batch)
            if parts is None:
                loss.backward()
            else:
                parts.buffer.expect()
                parts.backward(parts.weigh(batch, outputs, loss, terms))
                parts.finish()
        if ends:
            trainer = self.model.trainer
            self.model.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
            optimizer.step()
        return apply_to_collection((loss, terms, outputs), Tensor, Tensor.detach)


def _random_state() -> tuple[Any, ...]:
    """Return where the random numbers on the CPU are: of Python, numpy and torch."""
    numpys, torchs = str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()
    return random.getstate(), numpys, torchs


def reason_against(trainer: Any, task: Any) -> str | None:
    """Return why a Trainer's steps can't be CUDA graphs, or None. It completes "…, because"."""
    schedules = [(each.interval, each.frequency) for each in trainer.lr_scheduler_configs]
    alone = isinstance(trainer.strategy, SingleDeviceStrategy)
    summed = any(isinstance(callback, StepParts) for callback in trainer.callbacks)
    accumulates = trainer.accumulate_grad_batches > 1
    own = _hooks_within_a_step(trainer, task)
    reasons = {
        "several devices need trainer.strategy data-parallel": not alone
        and not isinstance(trainer.strategy, DataParallel),
        "a run of an older version accumulates no gradients in it": accumulates and not summed,
        "float16's loss scaling waits in each step": str(trainer.precision).startswith("16"),
        "detect_anomaly checks each step": detects_anomalies(trainer),
        "it is for optimizers of torch that count their steps on the GPU": not all(
            map(_counts_on_device, trainer.optimizers)
        ),
        "it steps one schedule, at each step": schedules not in ([], [("step", 1)]),
        f"it never calls {', '.join(own)}": own,
        "it needs an NVIDIA GPU": trainer.strategy.root_device.type != "cuda",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _hooks_within_a_step(trainer: Any, task: Any) -> list[str]:
    """Return the hooks of the task and of callbacks, not Lightning's own, that a replay skips."""
    kinds = map(type, (task, *trainer.callbacks))
    names = [name for name in dir(L.Callback) if name.startswith(("on_before_", "on_after_"))]
    names += ["optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"]
    hooks = [getattr(kind, name, None) for kind in kinds for name in names]
    known = ("lightning.", __name__.removesuffix("fast.step_graph"))  # and the engine's own
    return [h.__qualname__ for h in hooks if h and not h.__module__.startswith(known)]


def _counts_on_device(optimizer: Any) -> bool:
    """Return whether nothing in an optimizer's step changes in Python from step to step."""
    is_torchs = type(optimizer).__module__.startswith("torch.optim.")
    return is_torchs and ("capturable" in optimizer.defaults or type(optimizer) is torch.optim.SGD)


def restore_plain_options(checkpoint: dict[str, Any]) -> None:
    """Undo in a checkpoint what a step graph changed in the optimizers' options."""
    for state in checkpoint.get("optimizer_states", ()):
        for group in state["param_groups"]:
            if isinstance(group["lr"], Tensor):
                group["lr"] = float(group["lr"])
                group |= {"capturable": False} if "capturable" in group else {}
