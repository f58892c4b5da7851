"""How the weights are changed: fused optimizers, and the learning rate over a run."""

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
    """Return the fused optimizer of that name for the network's weights.

    Weights that are frozen are groups of their own, which change once they are unfrozen.
    Weight decay acts on matrices and kernels only: pulling biases and the scales of a normalization
    towards zero does not regularize (Goyal et al., "Accurate, Large Minibatch SGD", 2017).
    """
    learning = [p for p in network.parameters() if p.requires_grad]
    frozen = [p for p in network.parameters() if not p.requires_grad]
    groups: list[dict[str, Any]] = []
    for weights in [learning, frozen] if frozen else [learning]:
        groups += [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, name: ScheduleName, warmup: float, steps: float
) -> LambdaLR:
    """Return the schedule that sets the learning rate of each of a run's `steps` steps."""
    if not 0 <= warmup < 1:
        raise UserError(f"model.warmup is {warmup}; it is a share of the steps, from 0 to below 1.")
    if not math.isfinite(steps):
        raise UserError("The run has no end: set trainer.max_epochs or trainer.max_steps.")
    return LambdaLR(optimizer, lambda n: learning_rate_factor(name, warmup, (n + 0.5) / steps))


def learning_rate_factor(schedule: ScheduleName, warmup: float, progress: float) -> float:
    """Return the learning rate, as a share of its highest, after that share of the run's steps.

    It rises in a straight line from zero during the warm-up, then follows one_cycle (Smith and
    Topin, "Super-Convergence", 2018, in straight lines), cosine (Loshchilov and Hutter, "SGDR",
    2017) or stays constant.
    """
    if progress < warmup:
        return progress / warmup
    rest = min((progress - warmup) / (1 - warmup), 1.0)
    falling = {"one_cycle": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2}
    return falling.get(schedule, 1.0)
