"""Training on several devices without a wrapper around the network.

DistributedDataParallel rules out CUDA graphs and hooks every weight, which costs a small network
more than a second GPU brings. Here each device runs the same step as one device alone, and
step_parts.py adds up the gradients in one call at its end.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from .gradients import GradientBuffer, names_with_gradient


class DataParallel(DDPStrategy):
    """Lightning's DDPStrategy without DistributedDataParallel.

    Args:
        process_group_backend: nccl or gloo; unset: nccl for GPUs.
        timeout: how long a call waits for the other devices, where the backend can tell.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.seed: Tensor | None = None  # of the backward pass
        self.buffers: dict[int, GradientBuffer] = {}  # of manual optimization, by optimizer

    def configure_ddp(self) -> None:
        """Give all ranks the weights and buffers of rank 0."""
        module: Any = self.lightning_module
        for tensor in (*module.parameters(), *module.buffers()):
            content = tensor.detach().contiguous()
            torch.distributed.broadcast(content, src=0)
            tensor.detach().copy_(content)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute gradients divided by the number of ranks: their sum is then a mean."""
        if self.seed is None or self.seed.dtype != closure_loss.dtype:
            self.seed = torch.full_like(closure_loss.detach(), 1 / self.world_size)
        kwargs.setdefault("gradient", self.seed)
        return super().backward(closure_loss, optimizer, *args, **kwargs)

    def optimizer_step(
        self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """Step; with manual optimization, first average the optimizer's gradients."""
        module: Any = self.lightning_module
        if not module.automatic_optimization:
            self._average(optimizer)
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    def _average(self, optimizer: Any) -> None:
        buffer = self.buffers.get(id(optimizer))
        if buffer is None:
            own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
            named = self.lightning_module.named_parameters()  # type: ignore[union-attr]
            weights = {name: weight for name, weight in named if id(weight) in own}
            buffer = GradientBuffer(weights, names_with_gradient(weights))
            self.buffers[id(optimizer)] = buffer
        buffer.is_empty = True
        buffer.collect()
        buffer.sum_over_ranks()
