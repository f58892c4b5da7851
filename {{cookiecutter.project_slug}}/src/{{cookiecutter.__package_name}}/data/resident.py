"""The loader of small sets: all images lie on the device as uint8, a batch is one gather.

No workers, no copies from the host, no waiting: at 32 by 32 pixels, 50,000 images take 154 MB.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from .order import epoch_order, rank_slice, uniforms
from .sources import Images

PADDING_LABEL = -100  # cross_entropy's ignore_index: an image with this label counts for nothing


class Batch(NamedTuple):
    """What a network is given.

    `images` uint8 (n, 3, height, width); `labels` int64 (n,), PADDING_LABEL where the image only
    fills up the batch; `indices` int64 (n,), the images' places in their split; `draws` float32
    (n, k), each image's own random numbers (k is 0 where nothing is drawn).
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    draws: Tensor


class ResidentTrainLoader:
    """Whole batches of one rank in the order of the epoch; the tail of an epoch is dropped.

    Args:
        images: the split, moved to `device` once.
        batch_size: images per batch and rank.
        seed: decides the order and every draw.
        draws: how many uniforms each image gets.
        position: asked when an epoch starts: (epoch, first batch). So a resumed run goes on with
            the very next batch.
        rank, world_size: this process among all; each takes its share of every global batch.

    Raises:
        UserError: the split has fewer images than one global batch.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        draws: int,
        position: Callable[[], tuple[int, int]],
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(images) < batch_size * world_size:
            raise UserError(
                f"The training split has {len(images)} images, fewer than one batch of {batch_size}"
                f" on {world_size} device(s). Set --data.batch_size to"
                f" {max(len(images) // world_size, 1)} or less."
            )
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.batch_size, self.seed, self.draws, self.position = batch_size, seed, draws, position
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.labels) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.position()
        order = epoch_order(self.seed, epoch, len(self.labels), self.labels.device)
        batches = rank_slice(order, self.batch_size, self.rank, self.world_size)
        draws = uniforms(self.seed, epoch, batches.flatten(), self.draws)
        draws = draws.view(*batches.shape, self.draws)
        for index, drawn in zip(batches[first:], draws[first:], strict=True):
            yield _batch(self.pixels, self.labels, index, drawn)


class ResidentEvalLoader:
    """Every image of a split once, in order; the last batch is filled up with padding.

    All batches have the same shape, so that nothing recompiles, on every rank as many.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        n, device = len(self.labels), self.labels.device
        total = len(self) * self.batch_size * self.world_size
        place = F.pad(torch.arange(n, device=device), (0, total - n))
        labels = F.pad(self.labels, (0, total - n), value=PADDING_LABEL)
        nothing = torch.empty(self.batch_size, 0, device=device)
        every = torch.arange(total, device=device)
        for at in rank_slice(every, self.batch_size, self.rank, self.world_size):
            index = place[at]
            yield Batch(self.pixels[index].permute(0, 3, 1, 2), labels[at], index, nothing)


def _batch(pixels: Tensor, labels: Tensor, index: Tensor, draws: Tensor) -> Batch:
    return Batch(pixels[index].permute(0, 3, 1, 2), labels[index], index, draws)
