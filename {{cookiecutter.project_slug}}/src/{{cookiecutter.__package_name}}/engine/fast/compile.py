"""torch.compile: choosing a mode, and applying it to a task from outside."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from ..decisions import Decision, compile_mode
from ..hardware import this_machine

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "step-graph", "eager-graph"]


def decide_compiling(trainer: Any, asked: bool | CompileMode | None, buffered: bool) -> Decision:
    """Return the mode for a Trainer built without the command line, such as in a notebook.

    `buffered` tells whether the gradients of several micro-batches are summed in a buffer.
    """
    one_part = trainer.world_size * trainer.accumulate_grad_batches == 1
    kind, steps = trainer.strategy.root_device.type, trainer.estimated_stepping_batches
    requested = None if asked is None else Decision(asked, "as configured")
    return compile_mode(this_machine(), kind, one_part or buffered, steps, requested)


def compile_task(network: nn.Module, step: Callable, mode: str) -> Callable:
    """Compile the network in place, for evaluation, and return `step` compiled, for training."""
    options: dict[str, Any] = {"mode": mode.replace("step-graph", "default"), "dynamic": False}
    network.compile(**options)
    return torch.compile(step, **options)


def stop_compiling(network: nn.Module) -> None:
    """Undo compile_task and drop all compiled code.

    torch keeps 8 versions of a function, so the ninth fit in a notebook would not be compiled.
    torch 2.11 has no public way to undo nn.Module.compile().
    """
    network._compiled_call_impl = None  # type: ignore[assignment]
    torch.compiler.reset()
