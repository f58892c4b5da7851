"""The loader of image files: batches from workers, made ready ahead of time.

What is drawn for an image follows from (seed, epoch, index): neither the number of workers nor who
reads which batch changes a bit of what the network sees.
"""

import os
import signal
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import UserError
from .augment import Augmentation
from .batch import PADDING_LABEL, Batch, Position, ahead
from .decode import BadImage
from .order import Share, epoch_order, uniforms
from .reader import DRAWS, Reader, Reading, Request
from .splits import Files


class _Stream(ABC):
    """Batches from workers, in the order in which they are asked for."""

    def __init__(self, files: Files, share: Share, how: Reading) -> None:
        self.files, self.share, self.how = files, share, how
        self.memory = self._room(how.slot_size(files, share.batch_size))
        self.pinned: set[int] = set()
        self.loader: DataLoader = DataLoader(
            Reader(files, how, self.memory),
            batch_size=None,  # a request is a whole batch
            sampler=_Asked(self._numbered),
            collate_fn=_as_it_is,
            num_workers=how.workers,
            prefetch_factor=how.prefetch if how.workers else None,
            persistent_workers=how.workers > 0,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # or else each epoch would draw from the network's
        )

    @abstractmethod
    def requests(self) -> Iterator[tuple[int | None, Tensor]]:
        """Yield what the workers are to read, batch by batch: epoch, or None, and places."""

    def __iter__(self) -> Iterator[Batch]:
        yield from ahead(self.loader, self.received, self.how.device)

    def received(self, answer: Any) -> Batch:
        """Return what a worker has read as a batch on the device, or raise what it met."""
        slot, asked, rest = answer
        if isinstance(rest, UserError):
            raise rest
        device, n, size = self.how.device, len(asked), self.how.image_size
        places, room = torch.from_numpy(asked).to(device), self.memory[slot]
        if self.how.decoder == "gpu":
            from .gpu_decode import decode

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
        return Batch(images.permute(0, 3, 1, 2), labels, indices)

    @cached_property
    def labels(self) -> Tensor:
        return self.files.labels.to(self.how.device)

    def _numbered(self) -> Iterator[Request]:
        """A slot is written again when the batch that it held is on the device."""
        for i, (epoch, places) in enumerate(self.requests()):
            yield i % self.how.slots, epoch, places.numpy()

    def _room(self, slot_size: int) -> Tensor:
        if not self.how.workers:
            return torch.empty(1, slot_size, dtype=torch.uint8)
        memory = torch.UntypedStorage._new_shared(self.how.slots * slot_size)
        return torch.tensor([], dtype=torch.uint8).set_(memory).view(-1, slot_size)

    def _pin(self, slot: int) -> None:
        """Let the GPU copy from a slot by itself, without the host."""
        room, cuda = self.memory[slot], torch.cuda.cudart()
        if int(cuda.cudaHostRegister(room.data_ptr(), room.nbytes, 0)) == 0:
            release = weakref.finalize(self.memory, cuda.cudaHostUnregister, room.data_ptr())
            release.atexit = False
        self.pinned.add(slot)


def _as_it_is(answer: Any) -> Any:
    return answer


def _end_with_parent(worker: int) -> None:
    """Let SIGTERM end a worker only if its parent, which has a step to finish, sends it."""

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    parent = os.getppid()
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=wait, daemon=True).start()


class _Asked(Iterable[Request]):
    def __init__(self, requests: Callable[[], Iterator[Request]]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self.requests()


class StreamingTrainLoader(_Stream):
    """One process's batches in the order of the epoch, from a random part of each image."""

    def __init__(
        self,
        files: Files,
        share: Share,
        how: Reading,
        position: Position,
        augment: Augmentation | None = None,  # beyond cropping and mirroring
    ) -> None:
        super().__init__(files, share, how)
        self.position, self.augment = position, augment or Augmentation()

    def __len__(self) -> int:
        return self.share.batches(len(self.files))

    def requests(self) -> Iterator[tuple[int | None, Tensor]]:
        epoch, first = self.position()
        order = epoch_order(self.how.seed, epoch, len(self.files))
        return ((epoch, places) for places in self.share.of(order)[first:])

    def __iter__(self) -> Iterator[Batch]:
        epoch, _ = self.position()

        def finish(answer: Any) -> Batch:
            batch = self.received(answer)
            draws = uniforms(self.how.seed, epoch, batch.indices, DRAWS + self.augment.draws)
            if self.how.flip:
                mirrored = (draws[:, 4] < 0.5).view(-1, 1, 1, 1)
                batch = batch._replace(images=batch.images.flip(3).where(mirrored, batch.images))
            return self.augment(batch, draws[:, DRAWS:], len(batch.labels))

        yield from ahead(self.loader, finish, self.how.device)


class StreamingEvalLoader(_Stream):
    """The middle of every image of a split, once and in order; the last batch is filled up."""

    def __len__(self) -> int:
        return len(self.share.padded(len(self.files)))

    def requests(self) -> Iterator[tuple[int | None, Tensor]]:
        return ((None, places) for places in self.share.padded(len(self.files)))
