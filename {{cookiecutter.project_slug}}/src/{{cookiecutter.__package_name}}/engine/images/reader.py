"""What a worker does: read the files of a batch, decode and crop them, hand over uint8.

It writes into memory that it shares with the training process for as long as the loader lives. In
memory of its own, as DataLoader hands a batch over, each 4 KiB would cost a page fault on both
sides: more time than the copy. Where the GPU decodes (gpu_decode.py), it hands over the files.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data.order import uniforms
from ..errors import UserError
from .decode import BadImage, Choose, Jpeg, Size, cropped, cropped_or_jpeg, middle_box, random_box
from .splits import Files

DRAWS = 5  # uniforms per training image: area, shape, two for the place, mirroring
CPU = torch.device("cpu")
PAGE = 4096

Request = tuple[int, int | None, np.ndarray]  # slot; epoch, None in evaluation; places, or -1

# For each of m JPEGs, int64 (m, 9): how many bytes it has, its row in the batch, the box that is
# seen of it, the whole's width and height. The finished images of other rows.
Packed = tuple[np.ndarray, dict[int, np.ndarray]]


@dataclass(frozen=True)
class Reading:
    """How files are read: see ImageData, which has these settings too."""

    image_size: int
    seed: int = 0
    smallest_crop: float = 0.25
    flip: bool = True
    workers: int = 0
    prefetch: int = 2
    decoder: Literal["cpu", "gpu"] = "cpu"
    device: torch.device = CPU
    endless: bool = False  # whether the first batches of the next epoch are read at an epoch's end

    @property
    def slots(self) -> int:
        """How many batches lie between workers and training; each worker has its own."""
        return self.workers * (self.prefetch + 1) or 1

    def slot_size(self, files: Files, batch_size: int) -> int:
        """Return the bytes of a batch: of the pixels, or of files with some room to spare."""
        image = self.image_size**2 * 3
        if self.decoder == "gpu":
            some = range(0, len(files), max(len(files) // 100, 1))
            image = int(1.5 * np.mean([files[i].stat().st_size for i in some]))
        return -(-image * batch_size // PAGE) * PAGE


def check_shared_memory(how: Reading, slot_size: int, loaders: int, free: int | None) -> None:
    """Raise UserError if the batches that workers read ahead do not fit into shared memory.

    A worker that finds no room is killed without a word. `free` is in bytes; None where there is
    no such limit.
    """
    needed = loaders * how.slots * slot_size
    if how.workers and free is not None and needed > free:
        raise UserError(
            f"/dev/shm has {free / 2**20:.0f} MiB free, and {loaders * how.workers} workers that"
            f" read {how.prefetch} batches ahead need {needed / 2**20:.0f} MiB. Start the container"
            " with --shm-size=8g (or --ipc=host), or set --data.workers, --data.prefetch or the"
            " batch size lower."
        )


def pack(images: Iterable[Jpeg | np.ndarray], room: np.ndarray, size: Size) -> Packed:
    """Lay the JPEGs among the images of a batch one after another into `room`, uint8 (bytes,).

    One that finds no room any more is decoded here, to `size`.
    """
    jpegs, done, used = [], {}, 0
    for row, image in enumerate(images):
        if not isinstance(image, tuple):
            done[row] = image
            continue
        content, box, whole = image
        end = used + len(content)
        if end > len(room):
            done[row] = cropped(content, size, lambda *_, box=box: box)
            continue
        room[used:end] = np.frombuffer(content, np.uint8)
        jpegs.append([len(content), row, *box, *whole])
        used = end
    return np.array(jpegs, np.int64).reshape(-1, 9), done


class Reader(Dataset):
    """Answers a request with itself and what does not stand in its slot.

    That is how many JPEG files stand there and what is to be cut out of them, or an error that the
    training process is to raise. `memory` is uint8 (slots, bytes).
    """

    def __init__(self, files: Files, how: Reading, memory: Tensor) -> None:
        self.files, self.how, self.memory = files, how, memory

    def __getitem__(self, request: Request) -> tuple[Request, Any]:
        slot, epoch, places = request
        images, room = self._images(epoch, places), self.memory[slot].numpy()
        rest: Any = None
        try:
            if self.how.decoder == "gpu":
                rest = pack(images, room, (self.how.image_size, self.how.image_size))
            else:
                pixels = room[: len(places) * self.how.image_size**2 * 3].reshape(len(places), -1)
                pixels[places < 0] = 0
                for row, image in enumerate(images):
                    pixels[row] = image.reshape(-1)
        except UserError as error:
            rest = error
        return request, rest

    def _images(self, epoch: int | None, places: np.ndarray) -> Iterator[Any]:
        """Yield each image, uint8 (size, size, 3), or the JPEG that is to be decoded."""
        how, places = self.how, places[places >= 0]  # padding comes last
        read = cropped_or_jpeg if how.decoder == "gpu" else cropped
        parts: list[Choose] = [middle_box] * len(places)
        if epoch is not None:
            draws = uniforms(how.seed, epoch, torch.from_numpy(places), DRAWS).tolist()
            box = partial(random_box, smallest=how.smallest_crop, flip=how.flip)
            parts = [partial(box, draws=drawn) for drawn in draws]
        for place, choose in zip(places.tolist(), parts, strict=True):
            path: Path = self.files[place]
            try:
                yield read(path, (how.image_size, how.image_size), choose)
            except BadImage as reason:
                changed = "which it was not when it was checked"
                raise UserError(f"{path} {reason}, {changed}.") from None


def end_with_parent(worker: int) -> None:
    """Let SIGTERM end a worker only if its parent, which has a step to finish, sends it."""

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    parent = os.getppid()
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=wait, daemon=True).start()
