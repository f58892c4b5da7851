"""How well a network does, counted over images and never over batches."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric


def loss_and_logits(network: nn.Module, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return a training batch's loss, and its logits (n, num_classes): what is compiled as one."""
    logits, mixed = network(batch.images), (batch.others, batch.shares)
    return mixed_cross_entropy(logits, batch.labels, *mixed, smoothing), logits


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, others: Tensor | None, shares: Tensor | None, smoothing: float
) -> Tensor:
    """Return the mean loss of images of which `shares` (n,) are their own, the rest `others`'."""
    if others is None or shares is None:
        return cross_entropy(logits, labels, label_smoothing=smoothing)
    own, theirs = (
        cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
        for target in (labels, others)
    )
    return (shares * own + (1 - shares) * theirs).mean()


class MeanOverImages(Metric):
    """A mean over all images of all ranks, without ever waiting for the device.

    torchmetrics' own MeanMetric waits to look for NaN, and told not to look it forgets the weights
    (version 1.9.0).
    """

    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, images: Tensor) -> None:
        """Add the sum of a value over that many images."""
        self.total += total
        self.images += images

    def compute(self) -> Tensor:
        return self.total / self.images
