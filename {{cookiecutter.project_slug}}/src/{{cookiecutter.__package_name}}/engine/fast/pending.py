"""Numbers that are still being copied from the GPU, so that logging does not wait for them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class PendingValue:  # not a dataclass: Lightning would read its tensors before the copy is done
    """A number that is being copied from the GPU; float() waits for the copy."""

    def __init__(self, copy: Tensor, copied: torch.cuda.Event) -> None:
        self.copy, self.copied = copy, copied

    def __float__(self) -> float:
        if not self.copied.query():
            self.copied.synchronize()
        return float(self.copy)


def send(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Start one copy of all metrics that are on a GPU; return these as PendingValue."""
    on_gpu = {k: v for k, v in metrics.items() if isinstance(v, Tensor) and v.is_cuda}
    if not on_gpu:
        return dict(metrics)
    values = torch.stack([value.detach().double().reshape(()) for value in on_gpu.values()])
    copies, copied = values.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()
    return {**metrics, **{name: PendingValue(copies[i], copied) for i, name in enumerate(on_gpu)}}
