"""Gradients that are summed over several micro-batches or devices, in one buffer for all weights.

A backward pass makes new gradients, in memory that the next CUDA graph may overwrite. One call
copies or adds them to the buffer, which takes less time than autograd's adding one by one, and one
call sums the buffer over all devices.

Buffers can't tell a gradient of zero from none, and an optimizer treats the two differently: weight
decay and momentum go on with zero. So only weights that get a gradient anywhere have a place in the
buffer, and all others keep none.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError

ALIGNED = 64  # bytes: kernels read whole vectors


def flat_views(like: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return one zeroed 1-dimensional buffer per dtype, and a view of it for each tensor.

    A view has its tensor's shape, and its strides if the tensor is dense.
    """
    if not like:
        return [], []
    sizes: dict[torch.dtype, int] = {}
    places = []
    for tensor in like:
        start = sizes.get(tensor.dtype, 0)
        places.append(start)
        step = ALIGNED // tensor.element_size()
        sizes[tensor.dtype] = start + -(-tensor.numel() // step) * step
    buffers = {kind: like[0].new_zeros(size, dtype=kind) for kind, size in sizes.items()}
    views = []
    for tensor, start in zip(like, places, strict=True):
        stride = torch.empty_like(tensor, device="meta").stride()
        views.append(buffers[tensor.dtype].as_strided(tensor.shape, stride, start))
    return list(buffers.values()), views


def names_with_gradient(weights: Mapping[str, nn.Parameter]) -> list[str]:
    """Return the names of the weights that have a gradient on any rank."""
    has = torch.tensor([weight.grad is not None for weight in weights.values()], dtype=torch.int32)
    if weights and torch.distributed.is_available() and torch.distributed.is_initialized():
        has = has.to(next(iter(weights.values())).device)
        torch.distributed.all_reduce(has, torch.distributed.ReduceOp.MAX)
    return [name for name, there in zip(weights, has.tolist(), strict=True) if there]


class GradientBuffer:
    """The gradients of `used` weights as views of one buffer per dtype, with room for `more`.

    Args:
        weights: all weights that learn, by name.
        used: the names of those that get a gradient.
        more: tensors whose copies travel with the gradients; the copies, zero at first, are in
            `more`.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], used: Iterable[str], more: Sequence[Tensor] = ()
    ) -> None:
        self.used = list(used)
        self.weights = [weights[name] for name in self.used]
        self.unused = {name: weight for name, weight in weights.items() if name not in self.used}
        gradients = [weight.detach() for weight in self.weights]
        self.flat, views = flat_views([*gradients, *more])
        self.views, self.more = views[: len(gradients)], views[len(gradients) :]
        # Gradients come first in the buffer of their dtype.
        alone, _ = flat_views([gradient.to("meta") for gradient in gradients])
        ends = {buffer.dtype: len(buffer) for buffer in alone}
        self.buffers = [flat[: ends.get(flat.dtype, 0)] for flat in self.flat]
        self.is_empty = True

    def start(self) -> None:
        """Start a step: the next gradients are copied, not added."""
        self.is_empty = True

    def expect(self) -> None:
        """Let the next backward pass make new gradients."""
        for weight in self.weights:
            weight.grad = None

    def collect(self) -> None:
        """Add the gradients of a backward pass; every weight's gradient is now its sum so far.

        Raises UserError if a weight has a gradient and no place in the buffer.
        """
        for name, weight in self.unused.items():
            if weight.grad is not None:
                raise UserError(
                    f"{name} got its first gradient now, but the first step had none on any device,"
                    " so it has not been trained. Use it in every step, or freeze it."
                )
        new = [weight.grad for weight in self.weights]
        views = [view for view, there in zip(self.views, new, strict=True) if there is not None]
        if self.is_empty and len(views) < len(new):
            for flat in self.buffers:
                flat.zero_()
        if views:
            add = torch._foreach_copy_ if self.is_empty else torch._foreach_add_
            add(views, [gradient for gradient in new if gradient is not None])
        self.is_empty = False
        for weight, view in zip(self.weights, self.views, strict=True):
            weight.grad = view

    def multiply(self, factor: Tensor | float) -> None:
        """Multiply all gradients."""
        for buffer in self.buffers:
            buffer.mul_(factor)

    def sum_over_ranks(self) -> None:
        """Add up gradients and `more` over all ranks: one call per dtype."""
        for flat in self.flat:
            torch.distributed.all_reduce(flat)
