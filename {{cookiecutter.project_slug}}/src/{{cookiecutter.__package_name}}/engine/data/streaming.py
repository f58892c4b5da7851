"""The loader of image files: batches from workers, made ready ahead of time.

What is drawn for an image follows from (seed, epoch, index): neither the number of workers nor who
reads which batch changes a bit of what the network sees.
"""

import itertools
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ...augment import UNCHANGED, Augmentation
from ..errors import UserError
from ..images.decode import BadImage
from ..images.reader import DRAWS, Reader, Reading, Request, end_with_parent
from ..images.splits import Files
from .batch import PADDING_LABEL, Batch, ahead
from .order import Plan, uniforms


class StreamingLoader:
    """Batches from workers: a random part of each image to train on, its middle to evaluate.

    Where it is endless, one epoch follows on another: while the network is validated, the workers
    read what is trained on next. `augment` is what is done beyond cropping and mirroring.
    """

    def __init__(
        self, files: Files, plan: Plan, how: Reading, augment: Augmentation = UNCHANGED
    ) -> None:
        self.files, self.plan, self.how, self.augment = files, plan, how, augment
        self.labels = files.labels.to(how.device)
        self.requests, self.next = _Requests(plan, how), (0, 0)  # the epoch and batch to come
        self.running: Iterator[Batch] | None = None
        size, kind = how.slot_size(files, plan.share.batch_size), torch.UntypedStorage
        room = (kind._new_shared if how.workers else kind)(how.slots * size)
        self.memory = torch.tensor([], dtype=torch.uint8).set_(room).view(-1, size)
        self.pinned: set[int] = set()
        self.loader: DataLoader = DataLoader(
            Reader(files, how, self.memory),
            batch_size=None,  # a request is a whole batch
            sampler=self.requests,
            collate_fn=tuple,  # which it is
            num_workers=how.workers,
            prefetch_factor=how.prefetch if how.workers else None,
            persistent_workers=how.workers > 0,
            worker_init_fn=end_with_parent,
            generator=torch.Generator(),  # or else each epoch would draw from the network's
        )

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.plan.position() if self.plan.position else (self.next[0], 0)
        if not self.how.endless or self.running is None or self.next != (epoch, first):
            self.requests.start = epoch, first
            self.running = ahead(self.loader, self.finished, self.how.device)
        for batch in range(first, len(self)):
            self.next = (epoch, batch + 1) if batch + 1 < len(self) else (epoch + 1, 0)
            yield next(self.running)
        self.running = self.running if self.how.endless else None

    def end(self) -> None:
        """End the workers: where Python collects them, torch waits 5 s for each (issue 81794)."""
        workers: Any = self.loader._iterator
        self.running = self.loader._iterator = None
        if workers is not None:
            workers._shutdown_workers()

    def finished(self, answer: Any) -> Batch:
        """Return what a worker has read as a batch on the device, or raise what it met."""
        (slot, epoch, asked), rest = answer
        if isinstance(rest, UserError):
            raise rest
        device, n, size = self.how.device, len(asked), self.how.image_size
        places, room = torch.from_numpy(asked).to(device), self.memory[slot]
        if self.how.decoder == "gpu":
            from ..images.gpu_decode import decode

            images = torch.zeros(n, size, size, 3, dtype=torch.uint8, device=device)
            try:
                decode(room, rest, images)
            except BadImage as reason:
                names = ", ".join(str(self.files[place]) for place in asked)
                raise UserError(f"One of these files {reason}: {names}") from None
        else:
            if device.type == "cuda" and slot not in self.pinned:
                self._pin(slot)
            pixels = room[: n * size**2 * 3].view(n, size, size, 3)
            images = pixels.to(device, non_blocking=True, copy=True)
        indices = places.clamp(min=0)
        labels = self.labels[indices].where(places >= 0, PADDING_LABEL)
        batch = Batch(images.permute(0, 3, 1, 2), labels, indices)
        if epoch is None or self.augment == UNCHANGED:
            return batch
        draws = uniforms(self.how.seed, epoch, batch.indices, DRAWS + self.augment.draws)
        return self.augment(batch, draws[:, DRAWS:], n)

    def _pin(self, slot: int) -> None:
        """Let the GPU copy from a slot by itself, without the host."""
        room, cuda = self.memory[slot], torch.cuda.cudart()
        if int(cuda.cudaHostRegister(room.data_ptr(), room.nbytes, 0)) == 0:
            weakref.finalize(self.memory, cuda.cudaHostUnregister, room.data_ptr()).atexit = False
        self.pinned.add(slot)


class _Requests(Iterable[Request]):
    """What the workers are asked for, from a batch of an epoch on."""

    def __init__(self, plan: Plan, how: Reading) -> None:
        self.plan, self.how, self.start = plan, how, (0, 0)

    def __iter__(self) -> Iterator[Request]:
        """A slot is written again when the batch that it held is on the device."""
        begin, first = self.start
        slots = itertools.cycle(range(self.how.slots))
        for epoch in itertools.count(begin) if self.how.endless else [begin]:
            for places in self.plan.places(epoch)[first:]:
                yield next(slots), epoch if self.plan.position else None, places.numpy()
            first = 0
