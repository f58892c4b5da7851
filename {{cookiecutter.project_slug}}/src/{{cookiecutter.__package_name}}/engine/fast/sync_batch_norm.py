"""Batch normalization with the statistics of all devices' batches: --trainer.sync_batchnorm true.

torch's own SyncBatchNorm raises an error on the CPU and can't be compiled as one graph.
"""

from typing import Any

import torch
import torch.distributed._functional_collectives as collectives
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import Tensor, nn

from ..errors import UserError

LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SynchronizeBatchNorm(TorchSyncBatchNorm):
    """Lightning's plugin for the flag. It changes only how layers compute, and that until fit ends.

    Checkpoints hold the network as it was written, so that one device can read them.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        for name, layer in model.named_modules():
            if isinstance(layer, LAYERS):
                if type(layer).forward is not nn.BatchNorm2d.forward:
                    raise UserError(
                        f"trainer.sync_batchnorm is true, but {name} is a {type(layer).__name__},"
                        " which has a forward() of its own. Use BatchNorm1d, 2d or 3d in it."
                    )
                vars(layer)["written_as"] = type(layer)
                layer.__class__ = SyncBatchNorm  # type: ignore[assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if type(layer) is SyncBatchNorm:
                layer.__class__ = vars(layer).pop("written_as")
        return model


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalization over the batches of all ranks, for inputs (n, channels, …).

    In eval mode and on a single rank, it computes what the layer that it replaces does.
    """

    written_as: type[nn.BatchNorm2d]

    def __repr__(self) -> str:
        return f"{self.written_as.__name__}({self.extra_repr()})"

    def forward(self, x: Tensor) -> Tensor:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not self.training or not there or torch.distributed.get_world_size() == 1:
            return self.written_as.forward(self, x)  # type: ignore[arg-type]
        others = [0, *range(2, x.ndim)]  # all dimensions but the channels
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_full((1,), x.numel() / x.shape[1])
        sums = _SumOverRanks.apply(torch.cat([wide.sum(others), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centered = wide - mean.view(shape)  # a difference of squares would lose digits
        variance = _SumOverRanks.apply(centered.square().sum(others)) / count
        if self.running_mean is not None:
            self._update(mean.detach(), variance.detach() * (count / (count - 1)).detach())
        out = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics, as torch does."""
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        share: Any = self.momentum
        if share is None:  # the mean over all batches
            share = 1 / self.num_batches_tracked.to(mean.dtype)  # type: ignore[union-attr]
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(now.to(running.dtype), share)  # type: ignore[union-attr]


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks. Its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    # Compiled, the backward pass of torch.distributed.all_reduce() is wrong in torch 2.11.
    everybody: Any = torch.distributed.group.WORLD
    total = collectives.all_reduce(x.contiguous(), "sum", everybody)
    return collectives.wait_tensor(total)
