"""Parts of a network that do not learn: their weights stay, and they stay in eval mode."""

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from ..errors import UserError


def head_of(network: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of a network's last layer with weights: what tells classes apart."""
    layers = [each for each in network.named_modules() if list(each[1].parameters(recurse=False))]
    return layers[-1]


def freeze(network: nn.Module, except_head: bool = True, outputs: int | None = None) -> None:
    """Let nothing of a network learn but its head, or nothing at all.

    Raises UserError if `outputs` is given and the last layer with weights has another number of
    them: then it is not the head.
    """
    name, head = head_of(network)
    found = len(next(head.parameters()))
    if except_head and outputs is not None and found != outputs:
        raise UserError(
            f"model.freeze_backbone: the last layer with weights is '{name}' with {found} outputs"
            f" and not the head with {outputs}. Define the head last in the network's __init__."
        )
    _set(network, True)
    if except_head:
        _set(head, False)


def unfreeze(network: nn.Module) -> None:
    """Let all of a network learn again. Its optimizer has to have all weights from the start."""
    _set(network, False)


def frozen_parts(task: nn.Module) -> list[str]:
    """Return the names of the modules of a task that are frozen."""
    return [name for name, part in _parts_of(task) if getattr(part, "frozen", False)]


def freeze_parts(task: nn.Module, names: Collection[str]) -> None:
    """Freeze exactly the modules of these names, as they were when the names were taken."""
    for name, part in _parts_of(task):
        frozen = name in names
        if getattr(part, "frozen", False) != frozen:
            _set_mode(part, frozen)
            for weight in part.parameters(recurse=False):
                weight.requires_grad_(not frozen)


def keep_frozen(network: nn.Module) -> None:
    """Put what is frozen back into eval mode, after train() has changed all modes."""
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
    """Give an older checkpoint what optimizers have since then: groups of the frozen weights."""
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
