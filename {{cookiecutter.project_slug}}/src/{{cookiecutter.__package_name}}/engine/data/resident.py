"""The loader of images that are decoded already: several batches are one gather.

Small sets lie on the device as uint8: no workers, no copies from the host, no waiting. At 32 by 32
pixels, 50,000 images take 154 MB. What is too large for that stays in the host's memory, or in a
file mapped into it, and is copied ahead of time. Both give the same bits.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...augment import UNCHANGED, Augmentation
from ..images.splits import Images
from .batch import PADDING_LABEL, Batch, ahead
from .order import Plan, uniforms

AT_ONCE = 32 * 2**20  # bytes of images augmented together: few launches, compiling gains nothing


class ResidentLoader:
    """Batches of images that lie in the device's memory, or (`mapped`) in the host's.

    Training images are augmented, by the plan's seed.
    """

    def __init__(
        self,
        images: Images,
        plan: Plan,
        device: torch.device,
        mapped: bool = False,
        augment: Augmentation = UNCHANGED,
    ) -> None:
        self.plan, self.device, self.mapped, self.augment = plan, device, mapped, augment
        pixels, labels = images.pixels[: plan.n], images.labels[: plan.n]
        self.pixels, self.labels = pixels if mapped else pixels.to(device), labels.to(device)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.plan.position() if self.plan.position else (0, 0)
        places, size = self.plan.places(epoch, self.device)[first:], self.plan.share.batch_size
        together = max(AT_ONCE // (self.pixels[0].numel() * size), 1)
        parts = [places[i : i + together].flatten() for i in range(0, len(places), together)]

        def finish(part: Tensor) -> Batch:
            index = part.clamp(min=0)
            labels = self.labels[index].where(part >= 0, PADDING_LABEL)
            pixels = self.pixels[index.to(self.pixels.device)]
            if pixels.device != self.device:
                pixels = pixels.pin_memory().to(self.device, non_blocking=True)
            batch = Batch(pixels.permute(0, 3, 1, 2), labels, index)
            if self.plan.position is None:
                return batch
            draws = uniforms(self.plan.seed, epoch, index, self.augment.draws)
            return self.augment(batch, draws, size)

        chunks = ahead(parts, finish, self.device) if self.mapped else map(finish, parts)
        for chunk in chunks:
            columns = [[None] * len(chunk.labels) if x is None else x.split(size) for x in chunk]
            yield from map(Batch, *columns)
