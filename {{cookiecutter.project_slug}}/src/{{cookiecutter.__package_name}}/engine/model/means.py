"""Metrics as ratios of sums over rows, never as means over batches."""

from collections.abc import Mapping

import torch
from torch import Tensor

Totals = Mapping[str, tuple[Tensor, Tensor]]


class RunningTotals:
    """Sums and counts of a split's metrics, accumulated on the device without synchronizing."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, totals: Totals) -> None:
        """Add a batch's totals: name -> (sum, count)."""
        for name, (total, count) in totals.items():
            if name not in self.totals:
                self.totals[name] = _zeros_like(total), _zeros_like(count)
            self.totals[name][0].add_(total)
            self.totals[name][1].add_(count)

    def means(self) -> dict[str, Tensor]:
        """Return the metrics over all rows of all ranks: scalars on the device."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for pair in self.totals.values():
                for part in pair:
                    torch.distributed.all_reduce(part)
        return {name: ratio(*pair) for name, pair in self.totals.items()}


def ratio(total: Tensor, count: Tensor) -> Tensor:
    """Return total / count; for one value per class, its mean over classes with a count."""
    if total.ndim == 0:
        return total / count
    total, count = torch.broadcast_tensors(total, count)
    counted = count > 0
    wide = torch.float32 if total.device.type == "mps" else torch.float64
    ratios = (total.to(wide) / count.to(wide)).where(counted, 0.0)
    return (ratios.sum() / counted.sum()).to(torch.get_default_dtype())


def _zeros_like(part: Tensor) -> Tensor:
    """Return zeros to add to: float32 for 16-bit floats, otherwise the dtype of `part`."""
    wide = torch.promote_types(part.dtype, torch.float32) if part.is_floating_point() else None
    return torch.zeros_like(part, dtype=wide)
