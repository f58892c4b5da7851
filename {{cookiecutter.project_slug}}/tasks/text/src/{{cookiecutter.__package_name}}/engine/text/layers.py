"""The parameter groups of a fine-tuning: lower learning rates for layers far from the head.

Layers near the input know the language, those near the head the task: a small learning rate keeps
what the former know (Howard and Ruder, "Universal Language Model Fine-tuning", 2018).
"""

from typing import Any

import torch
from torch import nn

from ..errors import UserError


def decay_layers(optimizer: torch.optim.Optimizer, network: nn.Module, decay: float) -> None:
    """Split an optimizer's groups by layer, and multiply each layer's learning rate.

    The head keeps its rate. The last block gets `decay` times it, the block before it `decay`
    squared, and so on; embeddings come last. The first group has the highest rate, which is logged.
    Call this before the optimizer's first step, and before its schedule is built.

    Raises UserError if `decay` is out of range, or the network has no blocks.
    """
    if not 0 < decay <= 1:
        raise UserError(f"model.layer_decay is {decay}; expected a number above 0, at most 1.")
    if decay == 1:
        return
    depth_of = depths(network)
    head = max(depth_of.values())
    layer_of = {id(weight): depth_of[name] for name, weight in network.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        for depth in range(head, -1, -1):
            weights = [weight for weight in group["params"] if layer_of[id(weight)] == depth]
            if weights:
                rate = group["lr"] * decay ** (head - depth)
                groups.append({**group, "params": weights, "lr": rate})
    optimizer.param_groups = sorted(groups, key=lambda group: -group["lr"])


def depths(network: nn.Module) -> dict[str, int]:
    """Return the depth of each weight by its name: 0 in the embeddings, more towards the head.

    The blocks are the longest ModuleList of a network. What comes before them, and all that is
    named an embedding, is at depth 0; what comes after them, the head included, is at the greatest.
    Raises UserError if the network has no ModuleList.
    """
    lists = {
        name: part for name, part in network.named_modules() if isinstance(part, nn.ModuleList)
    }
    if not lists:
        raise UserError(
            f"model.layer_decay is below 1, and {type(network).__name__} has no nn.ModuleList of"
            " blocks: put its blocks into one, or set model.layer_decay to 1."
        )
    blocks = max(lists, key=lambda name: len(lists[name]))
    deepest = len(lists[blocks]) + 1
    found, depth = dict[str, int](), 0
    for name, _ in network.named_parameters():
        if name.startswith(f"{blocks}."):
            depth = int(name.removeprefix(f"{blocks}.").partition(".")[0]) + 1
        elif depth:
            depth = deepest
        found[name] = 0 if "embedding" in name else depth
    return found
