"""Image files as rows: workers read, decode and crop them to uint8.

If the GPU decodes (gpu_decode.py), workers only read the files.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...contract import Uniforms
from ...data.rows import TensorRows
from ...data.streaming import StreamConfig
from ...errors import UserError
from ..batch import ImageBatch
from ..checking.usable import ADVICE
from ..decoding.boxes import Box, Choose, Size, center_box, random_box
from ..decoding.decode import ImageDecodeError, Jpeg, cropped, cropped_or_jpeg
from ..decoding.jpeg_messages import heard
from ..decoding.packed import Packed, pack
from ..finding.names import printable
from ..splits import Files
from .decoded_cache import decoded

UNIFORMS = 5  # for each training image: area, aspect ratio, position (2), mirroring


@dataclass(frozen=True)
class ReadConfig:
    """How files are read: see ImageModule, which has the same settings."""

    image_size: int | Sequence[int]  # of a square's side, or height and width
    smallest_crop: float = 0.25
    flip: bool = False
    decoder: Literal["cpu", "gpu"] | None = None  # None: the run's decision
    hushed: bool = False  # whether libjpeg's lines are dropped: a note has named their files

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return width, height


class FileRows:
    """One split of image files: random crops in training, center crops in evaluation."""

    in_memory = False
    lengths = None
    uniforms = UNIFORMS
    whole_box: Callable[..., Box] = staticmethod(center_box)  # if the box is not random

    def __init__(self, files: Files, config: ReadConfig) -> None:
        self.files, self.config, self.n = files, config, files.n

    def take(self, index: Tensor, length: int | None, uniforms: Uniforms | None) -> ImageBatch:
        """Return the images at `index`, int64 (n,), decoded in this process."""
        index = index.clone()
        with self.hushed():
            images = np.stack(list(self.decoded(index.numpy(), uniforms, self.cropped)))
        return ImageBatch(
            torch.from_numpy(images).permute(0, 3, 1, 2), self.files.labels[index], index
        )

    def hushed(self) -> AbstractContextManager[None]:
        """Return a context in which libjpeg's lines are dropped if `config` says so."""
        return heard() if self.config.hushed else nullcontext()

    def load(self) -> TensorRows:
        """Return the center crop of every image, decoded once and mapped into memory.

        Raises UserError if the files are to be checked later.
        """
        if self.files.unchecked is not None:
            raise UserError(
                "data.check is later, but this data.loader reads all files before training. Leave"
                " data.loader unset, or set --data.check now."
            )
        return TensorRows(decoded(self.files, self.config.size, self.reader))

    def reader(self, config: StreamConfig) -> "ImageReader":
        """Return a reader for the streaming loader, with the decoder that was set or decided."""
        on_gpu = config.device.type == "cuda" and (self.config.decoder or config.decoder) == "gpu"
        on_gpu = on_gpu and self.files.channels == 3
        return ImageReader(self, "gpu" if on_gpu else "cpu", config.device)

    @property
    def cropped(self) -> Callable[..., np.ndarray]:
        """cropped() of decode.py, with the files' number of channels."""
        return partial(cropped, channels=self.files.channels)

    def decoded(
        self, index: np.ndarray, uniforms: Uniforms | None, read: Any
    ) -> Iterator[np.ndarray | Jpeg]:
        """Yield read(path, size, choose, bits) for each image: uint8 (height, width, c), or a Jpeg.

        `read` is `self.cropped`, or cropped_or_jpeg of decode.py. If a file is left out (see
        left_out.py), the next one takes its place in training, and nothing in an evaluation:
        `index` gets its row, or -1. Raises UserError, naming the file, if another can't be decoded.
        """
        config, size = self.config, self.config.size
        boxes = list[Choose]([partial(self.whole_box, size=size)] * len(index))
        if uniforms is not None:
            box = partial(random_box, smallest=config.smallest_crop, flip=config.flip, size=size)
            boxes = [partial(box, uniforms=numbers) for numbers in uniforms(UNIFORMS).tolist()]
        for place, (row, choose) in enumerate(zip(index.tolist(), boxes, strict=True)):
            others = range(row, row + self.n) if uniforms is not None else (row,)
            for other in others:
                index[place] = other % self.n
                if (image := self._read(other % self.n, choose, read)) is not None:
                    yield image
                    break
            else:
                index[place] = -1
                yield np.zeros((size[1], size[0], self.files.channels), np.uint8)

    def _read(self, row: int, choose: Choose, read: Any) -> np.ndarray | Jpeg | None:
        """Return an image, or None if it is left out. Raises UserError."""
        unchecked, path = self.files.unchecked, self.files[row]
        if unchecked is not None and unchecked.skip_bad and unchecked.is_left_out(row):
            return None
        try:
            return read(path, self.config.size, choose, self.files.bits)
        except ImageDecodeError as reason:
            if unchecked is None:
                advice = "it was valid when first checked. Restore it."
                raise UserError(f"{printable(path)} {reason}; {advice}") from None
            if not unchecked.skip_bad:
                raise UserError(f"{printable(path)} {reason}. {ADVICE}") from None
            return None


class ImageReader:
    """Reads batches of image files into slots: decoded, or undecoded for the GPU."""

    uniforms = UNIFORMS

    def __init__(self, rows: FileRows, decoder: Literal["cpu", "gpu"], device: torch.device):
        self.rows, self.decoder, self.size = rows, decoder, rows.config.size
        self.channels = rows.files.channels
        self.image_bytes = self.size[0] * self.size[1] * self.channels
        self.pinned = decoder == "cpu"
        self.labels = rows.files.labels.to(device)

    def slot_size(self, batch_size: int) -> int:
        """Return the size of a batch in bytes: its pixels, or 1.5 times the mean size of files."""
        files, image = self.rows.files, self.image_bytes
        if self.decoder == "gpu":
            sample = range(0, files.n, max(files.n // 100, 1))
            image = int(1.5 * np.mean([files[i].stat().st_size for i in sample]))
        return image * batch_size

    def read(
        self, index: np.ndarray, length: int | None, uniforms: Uniforms | None, slot: np.ndarray
    ) -> Packed | None:
        real = index[: np.count_nonzero(index >= 0)]  # a view: padding comes last
        if self.decoder == "gpu":
            images = self.rows.decoded(real, uniforms, cropped_or_jpeg)
            return pack(images, slot, self.size)
        pixels = slot[: len(index) * self.image_bytes].reshape(len(index), -1)
        pixels[len(real) :] = 0
        with self.rows.hushed():
            for row, image in enumerate(self.rows.decoded(real, uniforms, self.rows.cropped)):
                pixels[row] = image.reshape(-1)  # type: ignore[union-attr]
        return None

    def finish(
        self, index: Tensor, slot: Tensor, rest: Packed | None, device: torch.device
    ) -> ImageBatch:
        n, (width, height) = len(index), self.size
        if rest is None:
            pixels = slot[: n * self.image_bytes].view(n, height, width, self.channels)
            images = pixels.to(device, non_blocking=True, copy=True)
        else:
            from ..decoding.gpu_decode import decode

            images = torch.zeros(n, height, width, 3, dtype=torch.uint8, device=device)
            try:
                decode(slot, rest, images)
            except ImageDecodeError as reason:
                names = ", ".join(printable(self.rows.files[row]) for row in index.tolist())
                raise UserError(f"One of these files {reason}: {names}") from None
        return ImageBatch(images.permute(0, 3, 1, 2), self.labels[index], index)
