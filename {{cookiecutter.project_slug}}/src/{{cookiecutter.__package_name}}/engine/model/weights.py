"""Weights from a file: a state dict, or a checkpoint of a run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..errors import UserError
from .checks import NETWORK_PREFIX, differing, read_saved, summarize
from .freeze import head_of


def read_weights(file: Path, inside: str = "") -> dict[str, Tensor]:
    """Return the weights in a file: a state dict's, or those of a task's network.

    `inside` is where in the network they are, such as "body.". Raises UserError if the file can't
    be read or holds no weights.
    """
    content = read_saved(file, "model.pretrained")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"model.pretrained: {file} holds no state dict.")
    prefix = NETWORK_PREFIX + inside
    if any(key.startswith(prefix) for key in state):  # a checkpoint of a run
        state = {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], file: Path) -> str:
    """Copy weights into a module; a head of another shape stays fresh.

    Returns what was done, in a few words. Raises UserError if they differ in more than the shape of
    the head.
    """
    own = module.state_dict()
    # Files from before torch 0.4.1 do not have this count, which only an unset momentum reads.
    found = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | dict(state)
    name, head = head_of(module)
    of_head = {key: own[key] for key, _ in head.named_parameters(name)}
    other_head = any(found[key].shape != own[key].shape for key in of_head.keys() & found.keys())
    if other_head:
        found |= of_head
    if apart := differing(found, own):
        raise UserError(
            f"model.pretrained: {file} does not fit the network: {summarize(apart)}. Choose the"
            " model.network, and model.small_images, that it was saved from."
        )
    for key, weight in own.items():
        weight.copy_(found[key])
    return f"weights of {file.name}" + (f", but for a fresh {name}" if other_head else "")
