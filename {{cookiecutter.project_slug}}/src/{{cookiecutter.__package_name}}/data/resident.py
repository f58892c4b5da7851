"""The loader of small sets: all images lie on the device as uint8, a batch is one gather.

No workers, no copies from the host, no waiting: at 32 by 32 pixels, 50,000 images take 154 MB.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .order import Share, epoch_order, uniforms
from .splits import Images

PADDING_LABEL = -100  # cross_entropy's ignore_index: an image with this label counts for nothing

# Asked when an epoch starts: the epoch and its first batch, so that a resumed run goes on with the
# very next one.
Position = Callable[[], tuple[int, int]]


class Batch(NamedTuple):
    """What a network is given.

    `images` uint8 (n, 3, height, width); `labels` int64 (n,), PADDING_LABEL where the image only
    fills up the batch; `indices` int64 (n,), the images' places in their split; `draws` float32
    (n, k), each image's own random numbers (k is 0 where nothing is drawn on the device).
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    draws: Tensor


class ResidentTrainLoader:
    """One process's batches in the order of the epoch, each image with `draws` uniforms.

    `images` move to `device` once. `seed` decides the order and every draw.
    """

    def __init__(
        self,
        images: Images,
        share: Share,
        seed: int,
        draws: int,
        position: Position,
        device: torch.device,
    ) -> None:
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.share, self.seed, self.draws, self.position = share, seed, draws, position

    def __len__(self) -> int:
        return self.share.batches(len(self.labels))

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.position()
        order = epoch_order(self.seed, epoch, len(self.labels), self.labels.device)
        batches = self.share.of(order)
        draws = uniforms(self.seed, epoch, batches.flatten(), self.draws)
        draws = draws.view(*batches.shape, self.draws)
        for index, drawn in zip(batches[first:], draws[first:], strict=True):
            yield Batch(self.pixels[index].permute(0, 3, 1, 2), self.labels[index], index, drawn)


class ResidentEvalLoader:
    """Every image of a split once, in order; the last batch is filled up with padding.

    All batches have the same shape, so that nothing recompiles, on every process as many.
    """

    def __init__(self, images: Images, share: Share, device: torch.device) -> None:
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.share = share

    def __len__(self) -> int:
        return len(self.share.padded(len(self.labels)))

    def __iter__(self) -> Iterator[Batch]:
        device = self.labels.device
        nothing = torch.empty(self.share.batch_size, 0, device=device)
        for places in self.share.padded(len(self.labels), device):
            index = places.clamp(min=0)
            labels = self.labels[index].where(places >= 0, PADDING_LABEL)
            yield Batch(self.pixels[index].permute(0, 3, 1, 2), labels, index, nothing)
