"""What a worker does: read the files of a batch, decode, crop and mirror them, hand over uint8.

Where the GPU decodes (gpu_decode.py), it hands over the files as they are.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..errors import UserError
from .batch import PADDING_LABEL, Batch
from .decode import BadImage, Choose, cropped, cropped_or_jpeg, middle_box, random_box
from .order import uniforms
from .splits import Files

DRAWS = 5  # uniforms per training image: area, shape, two for the place, mirroring

CPU = torch.device("cpu")

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
    decoder: Literal["cpu", "gpu"] = "cpu"
    device: torch.device = CPU


def check_shared_memory(
    files: Files, how: Reading, batch_size: int, processes: int, free: int | None
) -> None:
    """Raise UserError if the batches that workers read ahead do not fit into shared memory.

    A worker that finds no room is killed without a word. `free` is in bytes; None where there is
    no such limit.
    """
    image = how.image_size**2 * 3
    if how.decoder == "gpu":  # the files themselves
        first = [files[i].stat().st_size for i in range(min(len(files), 100))]
        image = sum(first) // len(first)
    needed = processes * how.workers * how.prefetch * batch_size * image
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

    def __getitem__(self, request: Request) -> Any:
        epoch, places = request
        real = places[places >= 0]  # padding comes last
        draws: list[Any] = [None] * len(real)
        if epoch is not None:
            draws = uniforms(self.how.seed, epoch, real, DRAWS).tolist()
        read: list[Any] = []
        for place, drawn in zip(real.tolist(), draws, strict=True):
            try:
                read.append(self._read(self.files[place], drawn))
            except BadImage as reason:
                path = self.files[place]
                return UserError(f"{path} {reason}, which it was not when it was checked.")
        indices = places.clamp(min=0)
        labels = self.files.labels[indices].where(places >= 0, PADDING_LABEL)
        if self.how.decoder == "gpu":
            from .gpu_decode import pack

            return pack(read, labels, indices)
        black = np.zeros((self.how.image_size, self.how.image_size, 3), np.uint8)
        read += [black] * (len(places) - len(real))
        pixels = default_collate([torch.from_numpy(image) for image in read])  # in shared memory
        return Batch(pixels.permute(0, 3, 1, 2), labels, indices)

    def _read(self, path: Path, draws: list[float] | None) -> Any:
        """Return an image uint8 (size, size, 3), or a JPEG to decode and whether it is mirrored."""
        how, mirrored = self.how, False
        size = how.image_size, how.image_size
        choose: Choose = middle_box
        if draws is not None:
            choose = partial(random_box, draws=draws[:4], smallest=how.smallest_crop)
            mirrored = how.flip and draws[4] < 0.5
        if how.decoder == "gpu":
            image = cropped_or_jpeg(path, size, choose)
            if isinstance(image, tuple):
                return image, mirrored
        else:
            image = cropped(path, size, choose)
        return np.ascontiguousarray(image[:, ::-1]) if mirrored else image
