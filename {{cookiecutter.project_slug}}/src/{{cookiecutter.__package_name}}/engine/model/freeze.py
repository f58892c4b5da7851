"""Parts of a network that do not learn: their weights stay, and they stay in eval mode."""

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
    """Let all of a network learn again."""
    _set(network, False)


def keep_frozen(network: nn.Module) -> None:
    """Put what is frozen back into eval mode, after train() has changed all modes."""
    for module in network.modules():
        if getattr(module, "frozen", False):
            module.training = False


def _set(part: nn.Module, frozen: bool) -> None:
    part.requires_grad_(not frozen)
    for module in part.modules():
        if getattr(module, "frozen", False) != frozen:
            module.frozen = frozen  # type: ignore[assignment]
            module.training = not frozen
