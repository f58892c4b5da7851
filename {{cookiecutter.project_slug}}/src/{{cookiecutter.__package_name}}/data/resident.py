"""The loader of small sets: all images lie on the device as uint8; several batches are one gather.

No workers, no copies from the host, no waiting: at 32 by 32 pixels, 50,000 images take 154 MB.
Batches are gathered and augmented many at a time, for it takes the host longer to ask for that than
a GPU to do it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .order import Share, epoch_order, uniforms
from .splits import Images

AT_ONCE = 32 * 2**20  # bytes of images that are gathered and augmented together
PADDING_LABEL = -100  # cross_entropy's ignore_index: an image with this label counts for nothing

# Asked when an epoch starts: the epoch and its first batch, so that a resumed run goes on with the
# very next one.
Position = Callable[[], tuple[int, int]]

# uint8 images (n, 3, height, width) and float32 draws (n, k) -> uint8 images, augmented.
Augment = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """What a network is given.

    `images` uint8 (n, 3, height, width); `labels` int64 (n,), PADDING_LABEL where the image only
    fills up the batch; `indices` int64 (n,), the images' places in their split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class ResidentTrainLoader:
    """One process's batches in the order of the epoch, augmented.

    `images` move to `device` once. `seed` decides the order and each image's `draws` uniforms, with
    which it is augmented.
    """

    def __init__(
        self,
        images: Images,
        share: Share,
        seed: int,
        augment: Augment,
        draws: int,
        position: Position,
        device: torch.device,
    ) -> None:
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.share, self.seed, self.position = share, seed, position
        self.augment, self.draws = augment, draws

    def __len__(self) -> int:
        return self.share.batches(len(self.labels))

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.position()
        order = epoch_order(self.seed, epoch, len(self.labels), self.labels.device)
        batches = self.share.of(order)
        labels, size = self.labels[batches], self.share.batch_size
        draws = uniforms(self.seed, epoch, batches.flatten(), self.draws)
        together = max(AT_ONCE // (self.pixels[0].numel() * size), 1)
        for start in range(first, len(batches), together):
            part = slice(start, min(start + together, len(batches)))
            index = batches[part].flatten()
            images = self.pixels[index].permute(0, 3, 1, 2)
            images = self.augment(images, draws[part.start * size : part.stop * size])
            yield from map(Batch, images.split(size), labels[part], batches[part])


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
        for places in self.share.padded(len(self.labels), device):
            index = places.clamp(min=0)
            labels = self.labels[index].where(places >= 0, PADDING_LABEL)
            yield Batch(self.pixels[index].permute(0, 3, 1, 2), labels, index)
