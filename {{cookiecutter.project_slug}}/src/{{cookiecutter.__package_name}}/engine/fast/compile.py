"""torch.compile: whether it pays, in which mode, and applied to a task from outside."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from ..decisions import Decision, compile_mode
from ..hardware import this_machine

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "step-graph"]


def decide_compiling(trainer: Any, asked: bool | CompileMode | None) -> Decision:
    """Return the mode for a Trainer that was built without the command line, in a notebook."""
    parts = trainer.world_size * trainer.accumulate_grad_batches
    kind, steps = trainer.strategy.root_device.type, trainer.estimated_stepping_batches
    requested = None if asked is None else Decision(asked, "as configured")
    return compile_mode(this_machine(), kind, parts, steps, requested)


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
