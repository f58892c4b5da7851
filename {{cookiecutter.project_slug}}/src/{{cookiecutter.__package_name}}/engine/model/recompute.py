"""Activation checkpointing: the backward pass recomputes blocks, for less memory and more time.

It does not change the keys of the network's state dict.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError

CONTAINERS = (nn.Sequential, nn.ModuleList)


def recompute_blocks(network: nn.Module) -> None:
    """Keep only the input of each block for the backward pass, which recomputes the block.

    A block is a composite module in a Sequential or ModuleList. Raises UserError if there is none.
    """
    blocks = list(_blocks(network))
    if not blocks:
        raise UserError(
            "model.activation_checkpointing recomputes composite modules in an nn.Sequential, but"
            f" this {type(network).__name__} has none: leave it out, or choose another network."
        )
    for block in blocks:
        block.forward = MethodType(_forward_recomputed, block)  # type: ignore[method-assign]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        composite = not isinstance(child, CONTAINERS) and next(child.children(), None) is not None
        if isinstance(module, CONTAINERS) and composite:
            yield child
        else:
            yield from _blocks(child)


def _forward_recomputed(block: nn.Module, *inputs: Any, **keywords: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *inputs, **keywords)
    if not torch.compiler.is_compiling():  # compiled code never repeats a buffer's update
        keywords["context_fn"] = lambda: (nullcontext(), _preserve_running_statistics(block))
    return checkpoint(forward, block, *inputs, use_reentrant=False, **keywords)


@contextmanager
def _preserve_running_statistics(block: nn.Module) -> Iterator[None]:
    """Let BatchNorm update copies of its buffers while its block is recomputed.

    Otherwise it would count a batch twice. Setting track_running_stats to false is not possible:
    BatchNorm then saves fewer tensors, which checkpoint refuses.
    """
    norms = [m for m in block.modules() if getattr(m, "num_batches_tracked", None) is not None]
    kept = [(norm, name, value) for norm in norms for name, value in norm.named_buffers()]
    for norm, name, value in kept:
        setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, name, value in kept:
            setattr(norm, name, value)
