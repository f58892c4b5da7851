"""Embeddings whose gradients are fast in a compiled step that is deterministic.

torch.compile writes the gradient of an embedding as an addition to rows. A deterministic one adds
the rows with the same token one after the other, which takes milliseconds if they are thousands: a
batch has only two kinds of segments. torch's own kernel for that gradient, which runs where nothing
is compiled, is deterministic too and adds them side by side.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Embedding(nn.Embedding):
    """nn.Embedding whose gradient is torch's own kernel, compiled or not."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(input)
        padding = -1 if self.padding_idx is None else self.padding_idx
        return LookUp.apply(self.weight, input, padding)


def with_fast_gradients(model: nn.Module) -> None:
    """Turn the plain embeddings of a model into such ones; their weights stay."""
    for module in model.modules():
        plain = type(module) is nn.Embedding and module.max_norm is None
        if plain and not (module.sparse or module.scale_grad_by_freq):
            module.__class__ = Embedding


class LookUp(torch.autograd.Function):
    """Rows of a weight (rows, size) at an index (...): (..., size)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows, ctx.padding = weight.shape[0], padding
        return F.embedding(index, weight)

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return gradient(change, index, ctx.rows, ctx.padding), None, None


@torch.library.custom_op("text_engine::gradient", mutates_args=())  # not taken apart by a compiler
def gradient(change: Tensor, index: Tensor, rows: int, padding: int) -> Tensor:
    """Return the gradient of a weight, (rows, size), from that of what was looked up."""
    return torch.ops.aten.embedding_dense_backward(change, index, rows, padding, False)


@gradient.register_fake
def _(change: Tensor, index: Tensor, rows: int, padding: int) -> Tensor:
    return change.new_empty((rows, change.shape[-1]))
