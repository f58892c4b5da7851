"""How well a network does, counted over images and never over batches."""

import torch
from torch import Tensor
from torchmetrics import Metric


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
