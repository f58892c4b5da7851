"""The loader of images that are decoded already: several batches are one gather.

Small sets lie on the device as uint8: no workers, no copies from the host, no waiting. At 32 by 32
pixels, 50,000 images take 154 MB. What is too large for that stays in the host's memory, or in a
file mapped into it, and is copied ahead of time. Both give the same bits.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .augment import Augmentation
from .batch import PADDING_LABEL, Batch, Position, ahead
from .order import Share, epoch_order, uniforms
from .splits import Images

AT_ONCE = 32 * 2**20  # bytes of images that are gathered and augmented together: few launches


class _Gathering:
    """Images and labels, in the device's memory or (`mapped`) in the host's."""

    def __init__(
        self, images: Images, share: Share, device: torch.device, mapped: bool = False
    ) -> None:
        self.device, self.mapped, self.share = device, mapped, share
        self.pixels = images.pixels if mapped else images.pixels.to(device)
        self.labels = images.labels.to(device)

    def gather(self, index: Tensor) -> Tensor:
        """Return images (n, 3, height, width) on the device for their places (n,)."""
        pixels = self.pixels[index.to(self.pixels.device)]
        if pixels.device != self.device:
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2)

    def batches_of(self, places: Tensor, finish: Callable[[slice], Batch]) -> Iterator[Batch]:
        """Yield the batches of which `places` (batches, n) are the rows, made many at a time."""
        size = places.shape[1]
        together = max(AT_ONCE // (self.pixels[0].numel() * size), 1)
        parts = [slice(i, i + together) for i in range(0, len(places), together)]
        chunks = ahead(parts, finish, self.device) if self.mapped else map(finish, parts)
        for chunk in chunks:
            columns = [[None] * len(chunk.labels) if x is None else x.split(size) for x in chunk]
            yield from map(Batch, *columns)


class ResidentTrainLoader(_Gathering):
    """One process's batches in the order of the epoch, augmented.

    `seed` decides the order, and with what numbers each image is augmented.
    """

    def __init__(
        self,
        images: Images,
        share: Share,
        seed: int,
        augment: Augmentation,
        position: Position,
        device: torch.device,
        mapped: bool = False,
    ) -> None:
        super().__init__(images, share, device, mapped)
        self.seed, self.position, self.augment = seed, position, augment

    def __len__(self) -> int:
        return self.share.batches(len(self.labels))

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.position()
        order = epoch_order(self.seed, epoch, len(self.labels), self.labels.device)
        places, size = self.share.of(order)[first:], self.share.batch_size

        def finish(part: slice) -> Batch:
            index = places[part].flatten()
            batch = Batch(self.gather(index), self.labels[index], index)
            return self.augment(batch, uniforms(self.seed, epoch, index, self.augment.draws), size)

        yield from self.batches_of(places, finish)


class ResidentEvalLoader(_Gathering):
    """Every image of a split once, in order; the last batch is filled up with padding.

    All batches have the same shape, so that nothing recompiles, on every process as many.
    """

    def __len__(self) -> int:
        return len(self.share.padded(len(self.labels)))

    def __iter__(self) -> Iterator[Batch]:
        places = self.share.padded(len(self.labels), self.labels.device)

        def finish(part: slice) -> Batch:
            index = places[part].flatten().clamp(min=0)
            labels = self.labels[index].where(places[part].flatten() >= 0, PADDING_LABEL)
            return Batch(self.gather(index), labels, index)

        yield from self.batches_of(places, finish)
