"""Fused optimizers and learning rate schedules."""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..errors import UserError

OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["one_cycle", "cosine", "constant"]


def build_optimizer(
    network: nn.Module, name: OptimizerName, rate: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Return the optimizer of that name, fused, for the network's weights.

    Frozen weights are in separate groups, so that they can be unfrozen during a run. Weight decay
    applies to matrices and kernels only: pulling biases and normalization scales towards zero does
    not regularize (Goyal et al., "Accurate, Large Minibatch SGD", 2017).

    Raises UserError if a number is out of range.
    """
    _check_range("learning_rate", rate, math.inf)
    _check_range("weight_decay", weight_decay, math.inf)
    _check_range("momentum", momentum, 1)
    trainable = [p for p in network.parameters() if p.requires_grad]
    frozen = [p for p in network.parameters() if not p.requires_grad]
    groups: list[dict[str, Any]] = []
    for weights in [trainable, frozen] if frozen else [trainable]:
        groups += [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    # torch 2.11's fused SGD computes wrong updates of 16-bit weights on a CPU.
    fused = all(p.is_cuda or p.dtype.itemsize > 2 for p in network.parameters())
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=fused)


def _check_range(name: str, value: float, below: float) -> None:
    """Raise UserError if a setting is not a number in [0, below)."""
    if not 0 <= value < below:
        limit = "" if math.isinf(below) else f" and below {below}"
        raise UserError(f"model.{name} is {value}; expected a number, at least 0{limit}.")


def build_schedule(
    optimizer: torch.optim.Optimizer, name: ScheduleName, warmup: float, steps: float
) -> LambdaLR:
    """Return the learning rate schedule over a run of `steps` steps; step it after each step.

    Raises UserError if `warmup` is not a share of the steps, or the run has no end.
    """
    if not 0 <= warmup < 1:
        raise UserError(
            f"model.warmup is {warmup}; expected a share of the steps, at least 0 and below 1."
        )
    if not math.isfinite(steps):
        raise UserError("The run has no end: set trainer.max_epochs or trainer.max_steps.")
    steps = max(steps, 1)  # trainer.max_steps may be 0
    return LambdaLR(optimizer, lambda n: learning_rate_factor(name, warmup, (n + 0.5) / steps))


def learning_rate_factor(schedule: ScheduleName, warmup: float, progress: float) -> float:
    """Return the ratio of the learning rate to its highest at `progress`, 0 to 1, of the run.

    It rises linearly from zero during the warm-up, a share of the run. Then one_cycle falls
    linearly (Smith and Topin, "Super-Convergence", 2018), cosine follows Loshchilov and Hutter
    ("SGDR", 2017), and constant stays.
    """
    if progress < warmup:
        return progress / warmup
    rest = min((progress - warmup) / (1 - warmup), 1.0)
    falling = {"one_cycle": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2}
    return falling.get(schedule, 1.0)
