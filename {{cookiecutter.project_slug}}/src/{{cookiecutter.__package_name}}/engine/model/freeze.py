"""Freezing parts of a network: their weights don't change, and they stay in eval mode."""

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from ..errors import UserError


def head_of(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and module of the head: a network's last layer with weights."""
    layers = [each for each in network.named_modules() if list(each[1].parameters(recurse=False))]
    return layers[-1]


def freeze(network: nn.Module, except_head: bool = True, outputs: int | None = None) -> None:
    """Freeze a network except its head, or all of it.

    Raises UserError if `outputs` is given and the last layer with weights has a different number of
    outputs, so it is not the head.
    """
    name, head = head_of(network)
    found = len(next(head.parameters()))
    if except_head and outputs is not None and found != outputs:
        raise UserError(
            f"model.freeze_backbone: the last layer with weights is '{name}' with {found} outputs;"
            f" expected the head with {outputs}. Define the head last in the network's __init__."
        )
    _set(network, True)
    if except_head:
        _set(head, False)


def unfreeze(network: nn.Module) -> None:
    """Unfreeze all of a network. Its optimizer must have had all weights from the start."""
    _set(network, False)


def frozen_parts(task: nn.Module) -> list[str]:
    """Return the names of a task's frozen modules."""
    return [name for name, part in _parts_of(task) if getattr(part, "frozen", False)]


def freeze_parts(task: nn.Module, names: Collection[str]) -> None:
    """Freeze the modules with these names and unfreeze all others."""
    for name, part in _parts_of(task):
        frozen = name in names
        if getattr(part, "frozen", False) != frozen:
            _set_mode(part, frozen)
            for weight in part.parameters(recurse=False):
                weight.requires_grad_(not frozen)


def keep_frozen(network: nn.Module) -> None:
    """Set frozen modules back to eval mode, after train() has changed all modes."""
    for module in network.modules():
        if getattr(module, "frozen", False):
            module.training = False


def _parts_of(task: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in task.named_modules() if name)


def _set(part: nn.Module, frozen: bool) -> None:
    part.requires_grad_(not frozen)
    for module in part.modules():
        if getattr(module, "frozen", False) != frozen:
            _set_mode(module, frozen)


def _set_mode(module: nn.Module, frozen: bool) -> None:
    module.frozen = frozen  # type: ignore[assignment]
    module.training = not frozen


def add_frozen_groups(checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Add parameter groups of frozen weights to a checkpoint from before optimizers had them."""
    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    counts = [sum(p.ndim > 1 for p in frozen), sum(p.ndim <= 1 for p in frozen)]
    for optimizer in checkpoint["optimizer_states"] if frozen else ():
        groups = optimizer["param_groups"]
        first = sum(len(group["params"]) for group in groups)
        for group, count in zip(tuple(groups), counts, strict=True):
            groups.append({**group, "params": list(range(first, first + count))})
            first += count
    for schedule in checkpoint["lr_schedulers"] if frozen else ():
        for key in ("base_lrs", "lr_lambdas", "_last_lr"):
            schedule[key] = 2 * schedule[key]
