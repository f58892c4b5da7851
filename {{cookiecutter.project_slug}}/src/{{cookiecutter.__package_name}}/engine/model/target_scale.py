"""The scale on which a network learns numbers: mean 0 and deviation 1 over the training targets."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class TargetScale(nn.Module):
    """Scales targets, and outputs back to the unit of the targets.

    Mean and deviation are saved with the task's weights. They are 0 and 1 until `measure` is
    called, when a new run starts.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, targets: Tensor) -> Tensor:
        """Return targets (n,) as the network learns them."""
        return (targets - self.mean) / self.deviation

    def unscaled(self, outputs: Tensor) -> Tensor:
        """Return outputs (n,) in the unit of the targets."""
        return outputs * self.deviation + self.mean

    def measure(self, trainer: Any) -> str:
        """Take the scale of the data's `train_numbers`, in float64 and rounded only at the end.

        Equal targets get a deviation of 1. Returns a line that says so, or "" if the Trainer has a
        plain DataLoader, not the project's data.
        """
        targets = getattr(getattr(trainer, "datamodule", None), "train_numbers", None)
        if targets is None:
            return ""
        values = targets.double().tolist()
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        if min(values) == max(values):
            deviation = 1.0
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)
        return f"numbers: mean {mean:.6g}, deviation {deviation:.6g} in training, scaled to 0 and 1"
