"""The weights that a new run starts from: those of an encoder of transformers, or a file's."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..model.weights import load_weights, read_weights
from . import encoders
from .lora import merged

ADVICE = (
    "Set model.network to the one that it was saved with, and data.tokenizer to the tokenizer of"
    " that run, RUN/artifacts/tokenizer."
)


def load_pretrained(
    network: nn.Module, name: str, pretrained: bool | str, classes: Sequence[str] = ()
) -> str:
    """Load weights into a network: those of the encoder `name` if true, else those of a file.

    A head for other outputs keeps its random weights; see encoders.load_weights() for `classes`.
    Returns a message for the user. Raises UserError if the weights can't be read or do not fit.
    """
    if pretrained is True:
        return encoders.load_weights(network, name, classes)
    file = Path(str(pretrained)).expanduser()
    if not has_lora(network):
        return load_weights(network, read_weights(file), file, ADVICE)
    plain = merged(network)  # computes the same: what LoRA adds is still 0
    message = load_weights(plain, read_weights(file), file, ADVICE)
    copy_weights(plain, network)
    return message


def has_lora(network: nn.Module) -> bool:
    return any(".base_layer." in key for key in network.state_dict())


@torch.no_grad()
def copy_weights(plain: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a network without LoRA into the same network with it."""
    targets = network.state_dict()
    for key, value in plain.state_dict().items():
        layer, _, weight = key.rpartition(".")
        beside = f"{layer}.base_layer.{weight}"
        targets[beside if beside in targets else key].copy_(value)


def artifacts_of(network: nn.Module) -> dict[str, Path | bytes]:
    """Return the files that an encoder of transformers is built from; none of another network."""
    return dict(network.artifacts()) if isinstance(network, encoders.Encoder) else {}
