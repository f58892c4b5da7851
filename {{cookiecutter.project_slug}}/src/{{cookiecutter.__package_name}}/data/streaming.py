"""The loader of image files: workers read, decode, crop and mirror, and hand over uint8.

What is drawn for an image follows from (seed, epoch, index): neither the number of workers nor who
reads which batch changes a bit of what the network sees.
"""

import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .decode import BadImage, middle, random_crop
from .order import Share, epoch_order, uniforms
from .resident import PADDING_LABEL, Batch, Position
from .splits import Files

DRAWS = 5  # uniforms per training image: area, shape, two for the place, mirroring

Request = tuple[int | None, Tensor]  # the epoch, None in evaluation; places in the split, or -1


@dataclass(frozen=True)
class Reading:
    """How files are read: see ImageData, which has these settings too."""

    image_size: int
    seed: int = 0
    smallest_crop: float = 0.25
    flip: bool = True
    workers: int = 0
    prefetch: int = 4
    pin: bool = False


def check_shared_memory(how: Reading, batch_size: int, processes: int, free: int | None) -> None:
    """Raise UserError if the batches that workers read ahead do not fit into shared memory.

    A worker that finds no room is killed without a word. `free` is in bytes; None where there is
    no such limit.
    """
    needed = processes * how.workers * how.prefetch * batch_size * how.image_size**2 * 3
    if free is not None and needed > free:
        raise UserError(
            f"/dev/shm has {free / 2**20:.0f} MiB free, and {processes * how.workers} workers that"
            f" read {how.prefetch} batches of {batch_size} images ahead need"
            f" {needed / 2**20:.0f} MiB. Start the container with --shm-size=8g (or --ipc=host), or"
            " set --data.workers, --data.prefetch or the batch size lower."
        )


class Reader(Dataset):
    """Answers a request with its batch, or with the error that the training process is to raise."""

    def __init__(self, files: Files, how: Reading) -> None:
        self.files, self.how = files, how

    def __getitem__(self, request: Request) -> Batch | UserError:
        epoch, places = request
        n, size = len(places), self.how.image_size
        pixels = torch.zeros(n, size, size, 3, dtype=torch.uint8)
        labels = torch.full((n,), PADDING_LABEL)
        draws = None if epoch is None else uniforms(self.how.seed, epoch, places, DRAWS).tolist()
        for row, place in enumerate(places.tolist()):
            if place < 0:
                continue
            try:
                pixels.numpy()[row] = self._image(place, draws and draws[row])
            except BadImage as reason:
                path = self.files[place]
                return UserError(f"{path} {reason}, which it was not when it was checked.")
            labels[row] = self.files.labels[place]
        return Batch(pixels.permute(0, 3, 1, 2), labels, places.clamp(min=0))

    def _image(self, place: int, draws: list[float] | None) -> np.ndarray:
        path, how = self.files[place], self.how
        if draws is None:
            return middle(path, how.image_size)
        pixels = random_crop(path, how.image_size, draws[:4], how.smallest_crop)
        return pixels[:, ::-1] if how.flip and draws[4] < 0.5 else pixels


class _Stream(ABC):
    """Batches from workers, in the order in which they are asked for."""

    def __init__(self, files: Files, share: Share, how: Reading) -> None:
        self.files, self.share, self.pin = files, share, how.pin
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
        for answer in self.loader:
            if isinstance(answer, UserError):
                raise answer
            # Not DataLoader's own pinning: with persistent workers its thread holds up the end of
            # the process by 5 s a worker (pytorch issue 81794).
            yield Batch(*(part.pin_memory() for part in answer)) if self.pin else answer


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

    def __init__(self, files: Files, share: Share, how: Reading, position: Position) -> None:
        super().__init__(files, share, how)
        self.seed, self.position = how.seed, position

    def __len__(self) -> int:
        return self.share.batches(len(self.files))

    def requests(self) -> Iterator[Request]:
        epoch, first = self.position()
        order = epoch_order(self.seed, epoch, len(self.files))
        return ((epoch, places) for places in self.share.of(order)[first:])


class StreamingEvalLoader(_Stream):
    """The middle of every image of a split, once and in order; the last batch is filled up."""

    def __len__(self) -> int:
        return len(self.share.padded(len(self.files)))

    def requests(self) -> Iterator[Request]:
        return ((None, places) for places in self.share.padded(len(self.files)))
