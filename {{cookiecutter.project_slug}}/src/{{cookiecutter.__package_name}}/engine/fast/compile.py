"""torch.compile: whether it pays, in which mode, and applied to a task from outside."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from .. import hardware

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "step-graph"]


class CompileDecision(NamedTuple):
    """torch.compile's mode, None for no compiling, and the reason for it."""

    mode: str | None
    why: str


def decide_compiling(trainer: Any, asked: bool | CompileMode | None) -> CompileDecision:
    """Return the mode for a run that is about to start."""
    parts = trainer.world_size * trainer.accumulate_grad_batches
    kind, steps = trainer.strategy.root_device.type, trainer.estimated_stepping_batches
    machine = hardware.this_machine()
    return CompileDecision(*hardware.compile_mode(machine, kind, parts, steps, asked))


def compile_task(network: nn.Module, step: Callable, mode: str) -> Callable:
    """Compile the network in place, for evaluation, and return the compiled step."""
    how: dict[str, Any] = {"mode": mode.replace("step-graph", "default"), "dynamic": False}
    network.compile(**how)
    return torch.compile(step, **how)


def stop_compiling(network: nn.Module) -> None:
    """Let the network run as it is again, and the next fit find nothing that was compiled.

    Of one function torch keeps 8 versions; from the ninth fit of a notebook on it would compile no
    more. torch 2.11 has no public way to undo nn.Module.compile().
    """
    network._compiled_call_impl = None  # type: ignore[assignment]
    torch.compiler.reset()
