"""Running means and variances of batch normalization: one update per step.

torch updates them after each micro-batch, on each device for itself. Here a step updates them once,
by the mean over its micro-batches on all devices, so that all devices always hold the same values,
and how many there are does not matter.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .gradients import flat_views


class RunningStatistics:
    """The running statistics of all layers of a network, as views of one buffer per dtype.

    `changes` are the sums of what this step's micro-batches changed, a tensor per buffer. They may
    be replaced by others of the same shape, which travel with the gradients.

    Args:
        network: whose layers these are.
        several: whether micro-batches follow each other on this device.
    """

    def __init__(self, network: nn.Module, several: bool = True) -> None:
        layers: list[Any] = [layer for layer in network.modules() if _has_statistics(layer)]
        self.buffers = _as_views(
            [b for each in layers for b in (each.running_mean, each.running_var)]
        )
        counts = [each.num_batches_tracked for each in layers if several]
        self.counts = _as_views([count for count in counts if count is not None])
        self.before = [buffer.clone() for buffer in self.buffers]
        self.counts_before = [count.clone() for count in self.counts]
        self.changes = [torch.zeros_like(buffer) for buffer in self.buffers]

    def start(self) -> None:
        """Start a step. Changes since the last one, such as loading a checkpoint, stay."""
        for before, now in zip(self.before, self.buffers, strict=True):
            before.copy_(now)
        for before, now in zip(self.counts_before, self.counts, strict=True):
            before.copy_(now)

    def take(self, is_first: bool, is_last: bool) -> None:
        """Add what a micro-batch changed to the sum; undo it if another one follows."""
        for now, before, change in zip(self.buffers, self.before, self.changes, strict=True):
            if is_first:
                torch.sub(now, before, out=change)
            else:
                change.add_(now - before)
            if not is_last:
                now.copy_(before)
        for now, before in zip(self.counts, self.counts_before, strict=True):
            if not is_last:
                now.copy_(before)

    def update(self, micro_batches: int) -> None:
        """End a step: change the statistics once, by the mean over its micro-batches."""
        for now, before, change in zip(self.buffers, self.before, self.changes, strict=True):
            torch.add(before, change, alpha=1 / micro_batches, out=now)


def _has_statistics(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "running_mean", None), Tensor)


def _as_views(tensors: list[Tensor]) -> list[Tensor]:
    """Move tensors into one buffer per dtype, in place, and return the buffers."""
    buffers, views = flat_views(tensors)
    for tensor, view in zip(tensors, views, strict=True):
        tensor.data = view.copy_(tensor)
    return buffers
