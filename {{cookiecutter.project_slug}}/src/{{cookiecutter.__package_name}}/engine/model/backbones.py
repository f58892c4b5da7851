"""What is done to any network from outside: weights loaded, backbone frozen, blocks recomputed.

Nothing here adds or renames a key of the network's state dict.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .checks import OURS, differences, first, read_saved

CONTAINERS = (nn.Sequential, nn.ModuleList)


def load_pretrained(body: nn.Module, file: Path) -> str:
    """Copy a state dict's or a run's checkpoint's weights; a head for other classes stays fresh.

    Returns what was done, in a few words. Raises UserError if the file can't be read, or differs in
    more than the shape of the head.
    """
    own = body.state_dict()
    # Files from before torch 0.4.1 do not have this count, which only an unset momentum reads.
    found = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    found |= _read_weights(file)
    name, head = head_of(body)
    of_head = {key: own[key] for key, _ in head.named_parameters(name)}
    other_classes = any(found[key].shape != own[key].shape for key in of_head.keys() & found.keys())
    if other_classes:
        found |= of_head
    if apart := differences(found, own):
        raise UserError(
            f"model.pretrained: {file} does not fit the network: {first(apart)}. Choose the"
            " model.network, and model.small_images, that it was saved from."
        )
    for key, weight in own.items():
        weight.copy_(found[key])
    return f"weights of {file.name}" + (f", but for a fresh {name}" if other_classes else "")


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Return the weights in a file under today's names, without training's auxiliary heads."""
    content = read_saved(file, "model.pretrained")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"model.pretrained: {file} holds no state dict.")
    body = f"{OURS}body."
    if any(key.startswith(body) for key in state):  # a checkpoint of ImageClassifier
        state = {key[len(body) :]: state[key] for key in state if key.startswith(body)}
    # torchvision's own files name DenseNet's layers as torch did before 0.4, with another dot.
    names = {key: re.sub(r"(denselayer\d+\.(norm|conv))\.([12]\.)", r"\1\3", key) for key in state}
    auxiliary = ("AuxLogits.", "aux1.", "aux2.")
    return {names[key]: state[key] for key in state if not key.startswith(auxiliary)}


def head_of(body: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of a network's last layer with weights: what tells classes apart."""
    return [each for each in body.named_modules() if list(each[1].parameters(recurse=False))][-1]


def freeze_all_but_head(body: nn.Module, num_classes: int) -> None:
    """Let only the head learn; UserError if the last layer with weights has no output a class."""
    name, head = head_of(body)
    outputs = len(next(head.parameters()))
    if outputs != num_classes:
        raise UserError(
            f"model.freeze_backbone: the last layer with weights is '{name}' with {outputs} outputs"
            f" and not the head with {num_classes}. Define the head last in the network's __init__."
        )
    body.requires_grad_(False)
    head.requires_grad_(True)


def recompute_blocks(body: nn.Module, name: str) -> None:
    """Keep of each block only its input for the backward pass, which computes it anew.

    A block is a composite module in a Sequential or ModuleList; UserError if there is none.
    """
    blocks = list(_blocks(body))
    if not blocks:
        raise UserError(
            f"model.activation_checkpointing recomputes composite modules in an nn.Sequential, and"
            f" '{name}' has none: leave it out, or choose a network such as resnet50."
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
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, name, value) for norm in norms for name, value in norm.named_buffers()]
    for norm, name, value in kept:
        setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, name, value in kept:
            setattr(norm, name, value)
