"""The weights that a new run starts from: an encoder's of transformers, or a file's."""

from pathlib import Path

from torch import nn

from ..model.weights import load_weights, read_weights


def load_pretrained(network: nn.Module, name: str, pretrained: bool | str) -> str:
    """Load weights into a network: those of the encoder `name` if true, else those of a file.

    A head for other outputs keeps its random weights. Returns a message for the user. Raises
    UserError if the weights can't be read or do not fit.
    """
    if pretrained is True:
        from .encoders import load_weights as load_encoder_weights

        return load_encoder_weights(network, name)
    file = Path(str(pretrained)).expanduser()
    return load_weights(network, read_weights(file), file)
