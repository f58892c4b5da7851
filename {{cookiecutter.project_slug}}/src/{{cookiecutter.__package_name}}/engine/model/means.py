"""How well a task does, counted over rows and never over batches."""

from collections.abc import Mapping

import torch
from torch import Tensor

Totals = Mapping[str, tuple[Tensor, Tensor]]


class RunningTotals:
    """Sums and counts of a split's metrics, added up on the device without waiting for it."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, totals: Totals) -> None:
        """Add what a batch contributes: name -> (sum, count)."""
        for name, (total, count) in totals.items():
            if name not in self.totals:
                self.totals[name] = _zeros_like(total), _zeros_like(count)
            self.totals[name][0].add_(total)
            self.totals[name][1].add_(count)

    def means(self) -> dict[str, Tensor]:
        """Return the metrics over all rows of all ranks: scalars, on the device."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for pair in self.totals.values():
                for part in pair:
                    torch.distributed.all_reduce(part)
        return {name: ratio(*pair) for name, pair in self.totals.items()}


def ratio(total: Tensor, count: Tensor) -> Tensor:
    """Return total / count; of several classes the mean over those that have a count."""
    if total.ndim == 0:
        return total / count
    total, count = torch.broadcast_tensors(total, count)
    counted = count > 0
    wide = torch.float32 if total.device.type == "mps" else torch.float64
    ratios = (total.to(wide) / count.to(wide)).where(counted, 0.0)
    return (ratios.sum() / counted.sum()).to(torch.get_default_dtype())


def _zeros_like(part: Tensor) -> Tensor:
    """Return a sum to add to: of small floats in float32."""
    wide = torch.promote_types(part.dtype, torch.float32) if part.is_floating_point() else None
    return torch.zeros_like(part, dtype=wide)
