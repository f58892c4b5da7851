"""Batch normalization of a batch of one: a single value has no mean and no variance to train on."""

from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import batch_norm

LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def normalize_single_values(network: nn.Module) -> int:
    """Let layers of batch normalization take one value per channel; return how many there are.

    torch refuses such a batch in training mode. These layers normalize it by their running mean
    and variance, as in evaluation, and don't update them. Other batches are normalized as usual.
    """
    layers = [each for each in network.modules() if isinstance(each, LAYERS)]
    layers = [each for each in layers if each.running_mean is not None]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    return len(layers)


def _forward(layer: Any, values: Tensor) -> Tensor:
    if not layer.training or values.numel() > values.shape[1]:
        return type(layer).forward(layer, values)
    statistics = layer.running_mean, layer.running_var
    return batch_norm(values, *statistics, layer.weight, layer.bias, False, 0.0, layer.eps)
