"""Blocks of a network that are computed again in the backward pass: less memory, more time.

Nothing here adds or renames a key of the network's state dict.
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
    """Keep of each block only its input for the backward pass, which computes it again.

    A block is a composite module in a Sequential or ModuleList; UserError if there is none.
    """
    blocks = list(_blocks(network))
    if not blocks:
        raise UserError(
            "model.activation_checkpointing recomputes composite modules in an nn.Sequential, and"
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


def _forward_recomputed(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *inputs, **named)
    if not torch.compiler.is_compiling():  # the compiler never recomputes a change of a buffer
        named["context_fn"] = lambda: (nullcontext(), _running_statistics_kept(block))
    return checkpoint(forward, block, *inputs, use_reentrant=False, **named)


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch again when its block is recomputed: it updates copies.

    Not track_running_stats: without statistics it saves fewer tensors, which checkpoint refuses.
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
