"""Numbers that are still copied from the GPU: who logs them does not wait."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class OnItsWay:  # and no dataclass: Lightning reads those's tensors at once, before it is here
    """A number that is being copied from the GPU; float() waits until it is here."""

    def __init__(self, copy: Tensor, copied: torch.cuda.Event) -> None:
        self.copy, self.copied = copy, copied

    def __float__(self) -> float:
        if not self.copied.query():
            self.copied.synchronize()
        return float(self.copy)


def send(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics, those that are on a GPU on their way to the host, in one copy."""
    there = {k: v for k, v in metrics.items() if isinstance(v, Tensor) and v.is_cuda}
    if not there:
        return dict(metrics)
    values = torch.stack([value.detach().double().reshape(()) for value in there.values()])
    copies, copied = values.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()
    return {**metrics, **{name: OnItsWay(copies[i], copied) for i, name in enumerate(there)}}
