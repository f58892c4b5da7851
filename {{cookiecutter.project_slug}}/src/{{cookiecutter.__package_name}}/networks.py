"""The networks: the file to change first.

Every network takes uint8 images (n, channels, height, width) and returns logits (n, num_classes).
Its first layer normalizes the images, so that training, notebook and service cannot differ in this.
Write a network for RGB, three channels: for others, its first convolution is replaced.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .engine.images.input_layer import set_channels
from .engine.images.torchvision_networks import (
    torchvision_names,
    torchvision_network,
    unknown_network,
)
from .engine.model.checks import check_built


class Normalize(nn.Module):
    """Normalize uint8 images to float32 with a mean and standard deviation per channel.

    RGB has ImageNet's. Other images get those of the training images, when a run starts.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        mean, std = [127.5] * channels, [64.0] * channels
        if channels == 3:
            mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        self.register_buffer("mean", torch.tensor(mean).view(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return ((images.float() - self.mean) / self.std).to(self.mean.dtype)


class Network(nn.Module):
    """Normalization, then the body. An nn.Sequential would be compiled in pieces."""

    def __init__(self, body: nn.Module, channels: int = 3) -> None:
        super().__init__()
        self.normalize, self.body = Normalize(channels), body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.normalize(images))


def small_cnn(num_classes: int, small_images: bool) -> nn.Module:
    """Six convolutions for images of 8 by 8 pixels and larger: 290,000 weights, fast on a laptop.

    If small_images is false, the first two layers halve the resolution, as for photographs.
    """

    def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    stem = 1 if small_images else 2
    return nn.Sequential(
        *block(3, 32, stem),
        *block(32, 32, stem),
        *block(32, 64, 2),
        *block(64, 64),
        *block(64, 128, 2),
        *block(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(128, num_classes),
    )


def resnet18(num_classes: int, small_images: bool) -> nn.Module:
    """torchvision's ResNet-18 (He et al., 2015); as it is here, any of its layers can be replaced.

    With small_images, the stem keeps the resolution, for images of about 32 by 32 pixels.
    """
    return torchvision_network("resnet18", num_classes, small_images)


NETWORKS: dict[str, Callable[[int, bool], nn.Module]] = {
    "small_cnn": small_cnn,
    "resnet18": resnet18,
}


def build_network(
    name: str, num_classes: int, small_images: bool = False, channels: int = 3
) -> Network:
    """Return the network with this name; it takes uint8 images with so many channels.

    The name is a key of NETWORKS or a torchvision classification network. `small_images` is for
    about 32 by 32 pixels. Raises UserError for unknown names and for a body that is not a plain
    nn.Module.
    """
    if name in NETWORKS:
        body = NETWORKS[name](num_classes, small_images)
    elif name in torchvision_names():
        body = torchvision_network(name, num_classes, small_images)
    else:
        raise unknown_network(name, NETWORKS)
    check_built(name, body)
    set_channels(body, channels)
    return Network(body, channels)
