"""A whole training step, forward, backward and optimizer, as one CUDA graph.

The host then launches one graph per step instead of some hundred kernels, or one per micro-batch if
a step has several. Lightning does not see a graph's replay, so this module counts the steps for it
and steps the schedule.

A graph repeats what was recorded. So each version of the step's code gets its own: step_versions.py
tells which one a batch needs.
"""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from ..errors import UserError
from ..ranks import is_rank_zero
from .data_parallel import DataParallel
from .step_parts import StepParts
from .step_versions import StepVersions

EAGER_STEPS = 3  # training steps before the capture: they compile and allocate lasting memory


class StepGraph(L.Callback):
    """Replaces a task's training step: the first steps run eagerly, then one is captured.

    Args:
        loss_and_outputs: returns loss, terms and outputs of (task, batch), and is not compiled.
    """

    automatic = True  # the task's automatic_optimization before

    def __init__(self, loss_and_outputs: Callable[[Any, Any], Any]) -> None:
        self.loss_and_outputs = loss_and_outputs

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self.automatic = pl_module.automatic_optimization
        pl_module.automatic_optimization, pl_module.step_graph = False, self
        self.model: Any = pl_module

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.automatic_optimization, pl_module.step_graph = self.automatic, None
        self.reset()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def on_fit_start(self, trainer, pl_module) -> None:
        """Raise UserError if a step can't be one graph."""
        kinds = map(type, (pl_module, *trainer.callbacks))
        names = [name for name in dir(L.Callback) if name.startswith(("on_before_", "on_after_"))]
        names += ["optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"]
        hooks = [getattr(kind, name, None) for kind in kinds for name in names]
        known = ("lightning.", __name__.removesuffix("fast.step_graph"))  # and the engine's own
        own = [h.__qualname__ for h in hooks if h and not h.__module__.startswith(known)]
        schedules = [(each.interval, each.frequency) for each in trainer.lr_scheduler_configs]
        alone = trainer.world_size == 1 or isinstance(trainer.strategy, DataParallel)
        summed = any(isinstance(callback, StepParts) for callback in trainer.callbacks)
        accumulates = trainer.accumulate_grad_batches > 1
        reasons = {
            "several devices need trainer.strategy data-parallel": not alone,
            "a run of an older version accumulates no gradients in it": accumulates and not summed,
            "float16's loss scaling waits in each step": str(trainer.precision).startswith("16"),
            "it is for one optimizer": len(trainer.optimizers) > 1,
            "it steps one schedule, at each step": schedules not in ([], [("step", 1)]),
            f"it never calls {', '.join(own)}": own,
            "it needs an NVIDIA GPU": trainer.strategy.root_device.type != "cuda",
        }
        for reason, holds in reasons.items():
            if holds:
                raise UserError(f"model.compile is step-graph, but {reason}: leave it unset.")

    def on_train_start(self, trainer, pl_module) -> None:
        device = pl_module.device
        self.progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        self.optimizer, self.stream = pl_module.optimizers(), torch.cuda.Stream(device)
        for group in self.optimizer.param_groups:  # a tensor: the graph reads each new rate
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            group |= {"capturable": True} if "capturable" in group else {}
        self.reset()

    def reset(self) -> None:
        """Drop the graphs, so that the next steps capture new ones."""
        self.steps, self.versions = 0, StepVersions(self.loss_and_outputs)
        self.pool: Any = None
        self.batches: dict[Any, Any] = {}  # which the graphs read, by their shapes
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Any]] = {}

    def step(self, batch: Any) -> Tensor:
        """Train on a batch and return its loss."""
        parts = self.model.parts
        ends = parts is None or parts.ends
        if ends:
            self.progress.increment_ready()
        version = None if self.steps < EAGER_STEPS else self._version(batch)
        if version is None:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss, terms, outputs = self._train_step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            loss, terms, outputs = self._replay(batch, version)
        if ends:
            self.steps += 1
            self.progress.increment_completed()
            if parts is None and self.model.logs(self.model.global_step):
                terms = {name: term.clone() for name, term in terms.items()}
                self.model.log_step(batch, outputs, loss.clone(), terms)
            for schedule in self.model.trainer.lr_scheduler_configs:
                schedule.scheduler.step()
        return loss

    def _version(self, batch: Any) -> int | None:
        """Return the number of the code's version, or None if a graph might miss a change."""
        known = self.versions.problem
        version = self.versions.of(self.model, batch)
        if self.versions.problem and not known and is_rank_zero():
            print(
                "note: model.compile is step-graph, but torch.compile can't tell when the step's"
                f" code changes ({self.versions.problem}). So the step is not one CUDA graph: try"
                " --model.compile reduce-overhead.",
                flush=True,
            )
        return version

    def _replay(self, batch: Any, version: int) -> Any:
        """Train on a batch by the graph of steps, or of micro-batches, of its kind."""
        parts = self.model.parts
        shapes = tuple(None if part is None else part.shape for part in batch)
        kind = (
            version,
            shapes,
            parts and (parts.begins, parts.ends and parts.micro_batches, parts.logs),
        )
        if shapes not in self.batches:
            self.batches[shapes] = copy.deepcopy(batch)
        if kind not in self.graphs:
            graph, self.pool = torch.cuda.CUDAGraph(), self.pool or torch.cuda.graph_pool_handle()
            if parts is None:
                self.optimizer.optimizer.zero_grad(set_to_none=True)
            # thread_local: the loader's thread keeps copying during the capture
            how: Any = {"stream": self.stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(graph, pool=self.pool, **how):
                self.graphs[kind] = graph, self._train_step(self.batches[shapes])
        for static, part in zip(self.batches[shapes], batch, strict=True):
            if static is not None and part is not None:
                static.copy_(part)
        graph, results = self.graphs[kind]
        graph.replay()
        return results

    def _train_step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
        torch.clear_autocast_cache()  # it holds casts of the weights before the last step
        optimizer, parts = self.optimizer.optimizer, self.model.parts
        if parts is None:
            optimizer.zero_grad(set_to_none=True)
        elif parts.begins:
            parts.start()
        loss, terms, outputs = self.model.train_step(self.model, batch)
        if parts is None:
            loss.backward()
        else:
            parts.buffer.expect()
            (parts.weigh(batch, outputs, loss, terms) / parts.total).backward()
            parts.finish()
        if parts is None or parts.ends:
            trainer = self.model.trainer
            self.model.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
            optimizer.step()
        return apply_to_collection((loss, terms, outputs), Tensor, Tensor.detach)
