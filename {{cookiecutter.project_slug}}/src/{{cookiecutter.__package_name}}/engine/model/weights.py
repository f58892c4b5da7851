"""Loading weights from a file: a state dict, or a run's checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..errors import UserError
from .checks import NETWORK_PREFIX, differing, read_saved, summarize
from .freeze import head_of


def read_weights(file: Path, inside: str = "") -> dict[str, Tensor]:
    """Return the weights of a state dict, or of the network in a run's checkpoint.

    `inside` selects a part of that network, such as "body.". Raises UserError if the file can't be
    read or holds no weights.
    """
    content = read_saved(file, "model.pretrained")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"model.pretrained: {file} holds no state dict. Expected a file of"
            " torch.save(network.state_dict(), file), or a run's checkpoint."
        )
    prefix = NETWORK_PREFIX + inside
    if any(key.startswith(prefix) for key in state):  # a run's checkpoint
        state = {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], file: Path, advice: str) -> str:
    """Copy weights into a module; a head with another shape keeps its own weights.

    Returns a message for the user. Raises UserError, which ends with `advice`, if the weights
    differ in more than the shape of the head.
    """
    own = module.state_dict()
    # Files from before torch 0.4.1 lack this count. BatchNorm reads it only without a momentum.
    found = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | dict(state)
    name, head = head_of(module)
    of_head = {key: own[key] for key, _ in head.named_parameters(name)}
    other_head = any(found[key].shape != own[key].shape for key in of_head.keys() & found.keys())
    if other_head:
        found |= of_head
    if differences := differing(found, own):
        raise UserError(
            f"model.pretrained: {file} does not fit the network: {summarize(differences)}. {advice}"
        )
    for key, weight in own.items():
        weight.copy_(found[key])
    return f"weights of {file.name}" + (f", except for a new head ({name})" if other_head else "")
