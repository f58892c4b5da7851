"""The loader of image files: batches from workers, made ready ahead of time.

What is drawn for an image follows from (seed, epoch, index): neither the number of workers nor who
reads which batch changes a bit of what the network sees.
"""

import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import UserError
from .augment import Augmentation
from .batch import Batch, Position, ahead
from .decode import BadImage
from .order import Share, epoch_order, uniforms
from .reader import DRAWS, Reader, Reading, Request
from .splits import Files


class _Stream(ABC):
    """Batches from workers, in the order in which they are asked for."""

    def __init__(self, files: Files, share: Share, how: Reading) -> None:
        self.files, self.share, self.how = files, share, how
        self.loader: DataLoader = DataLoader(
            Reader(files, how),
            batch_size=None,  # a request is a whole batch
            sampler=_Asked(self.requests),
            num_workers=how.workers,
            prefetch_factor=how.prefetch if how.workers else None,
            persistent_workers=how.workers > 0,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # or else each epoch would draw from the network's
        )

    @abstractmethod
    def requests(self) -> Iterator[Request]:
        """Yield what the workers are to read, batch by batch."""

    def __iter__(self) -> Iterator[Batch]:
        return ahead(self.loader, self.received, self.how.device)

    def received(self, answer: Any) -> Batch:
        """Return what a worker has read as a batch on the device, or raise what it met."""
        how = self.how
        if isinstance(answer, UserError):
            raise answer
        if how.decoder == "gpu":
            from .gpu_decode import decode

            try:
                return decode(answer, how.image_size, how.device)
            except BadImage as reason:
                names = ", ".join(str(self.files[place]) for place in answer.indices.tolist())
                raise UserError(f"One of these files {reason}: {names}") from None
        if how.device.type == "cuda":
            # Not DataLoader's own pinning: with persistent workers its thread holds up the end of
            # the process by 5 s a worker (pytorch issue 81794).
            moved = (part.pin_memory().to(how.device, non_blocking=True) for part in answer[:3])
            return Batch(*moved)
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
        self.seed, self.position, self.augment = how.seed, position, augment or Augmentation()

    def __len__(self) -> int:
        return self.share.batches(len(self.files))

    def requests(self) -> Iterator[Request]:
        epoch, first = self.position()
        order = epoch_order(self.seed, epoch, len(self.files))
        return ((epoch, places) for places in self.share.of(order)[first:])

    def __iter__(self) -> Iterator[Batch]:
        epoch, _ = self.position()

        def finish(answer: Any) -> Batch:
            batch = self.received(answer)
            draws = uniforms(self.seed, epoch, batch.indices, DRAWS + self.augment.draws)
            return self.augment(batch, draws[:, DRAWS:], len(batch.labels))

        yield from ahead(self.loader, finish, self.how.device)


class StreamingEvalLoader(_Stream):
    """The middle of every image of a split, once and in order; the last batch is filled up."""

    def __len__(self) -> int:
        return len(self.share.padded(len(self.files)))

    def requests(self) -> Iterator[Request]:
        return ((None, places) for places in self.share.padded(len(self.files)))
