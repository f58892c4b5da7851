"""The first convolution of a network, for images with another number of channels than RGB."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

RGB = 3


def input_layer(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the name and module of a network's first convolution, or None if it has none."""
    layers = (each for each in network.named_modules() if isinstance(each[1], nn.Conv2d))
    return next(layers, None)  # type: ignore[arg-type]


def set_channels(network: nn.Module, channels: int) -> None:
    """Let a network for RGB take another number of channels: replace its first convolution.

    The new weights are random, and its outputs as large as before. A network that does not begin
    with a convolution of RGB stays as it is.
    """
    found = input_layer(network)
    name, old = found or ("", None)
    if channels == RGB or old is None or not name or old.in_channels != RGB or old.groups != 1:
        return
    if getattr(network, "transform_input", False):  # of GoogLeNet and Inception: RGB to RGB
        network.transform_input = False  # type: ignore[assignment]
    options: Any = {"padding_mode": old.padding_mode, "bias": old.bias is not None}
    shape = (old.kernel_size, old.stride, old.padding, old.dilation)
    new = nn.Conv2d(channels, old.out_channels, *shape, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        new.weight.normal_(std=float(old.weight.std()) * (RGB / channels) ** 0.5)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    network.set_submodule(name, new)


def for_channels(state: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Return weights of an RGB network for one with another number of channels, and a message.

    The message is empty if the weights of the first convolution fit already. For grey they are
    added up; for more channels they are repeated, and scaled so that the outputs stay as large.
    """
    found, state = input_layer(network), dict(state)
    name, layer = found if found else ("", None)
    weight = state.get(f"{name}.weight")
    if layer is None or weight is None or weight.ndim != 4 or weight.shape[1] != RGB:
        return state, ""
    channels = layer.in_channels
    if channels == RGB or layer.groups != 1:
        return state, ""
    if channels == 1:
        state[f"{name}.weight"] = weight.sum(1, keepdim=True)
        return state, f"{name}'s weights of red, green and blue are added up for 1 channel"
    repeated = weight.repeat(1, -(-channels // RGB), 1, 1)[:, :channels]
    state[f"{name}.weight"] = repeated * (RGB / channels)
    return state, f"{name}'s weights of red, green and blue are repeated for {channels} channels"
