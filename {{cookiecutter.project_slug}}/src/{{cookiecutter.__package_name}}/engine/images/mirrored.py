"""Test-time flip: the prediction for an image together with that for its mirror image."""

import math

import torch
from torch import Tensor, nn


def with_mirrored(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logarithm of the mean probabilities of image and mirror image, (n, classes).

    Their softmax is that mean, so losses, metrics and predictions use them as logits. `images` are
    uint8 (n, c, h, w).
    """
    both = torch.stack([network(images), network(images.flip(3))]).float()
    return both.log_softmax(2).logsumexp(0) - math.log(2)
