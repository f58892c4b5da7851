"""New image files as rows, read as evaluation reads them. One that can't be read ends nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...contract import Facts, Uniforms
from ...data.streaming import StreamConfig
from ...errors import UserError
from ..batch import ImageBatch
from ..checking.inspection import inspect_content
from ..decoding.boxes import Choose, center_box, largest_box
from ..decoding.decode import ImageDecodeError, Jpeg
from ..decoding.jpeg_messages import beside_others
from ..decoding.packed import Packed
from ..finding.file_paths import Paths
from ..splits import DIGEST, Files
from .archive import Archive
from .reader import FileRows, ImageReader, ReadConfig


class NewFiles(FileRows):
    """Image files to predict, shown as evaluation showed those that a run was trained on.

    Args:
        paths: the files, in `archive` if there is one.
        facts: those of the run's data.

    `problems` maps the indices of files that can't be read to the reasons, `noted` those of the
    batch that this process reads.
    """

    def __init__(self, paths: Paths, facts: Facts, archive: Archive | None = None) -> None:
        channels, height, width = facts.shapes["images"]
        files = Files(
            paths,
            torch.zeros(len(paths), dtype=torch.int64),
            np.zeros((len(paths), DIGEST), np.uint8),
            facts.extra.get("bits", 16),
            channels,
        )
        super().__init__(files, ReadConfig([height, width], hushed=True))
        self.archive = archive
        self.problems, self.noted = dict[int, str](), dict[int, str]()
        self.whole_box = center_box if facts.extra["from_files"] else largest_box
        streamed = facts.extra.get("loader", "streaming") == "streaming"
        self.by_gpu = streamed and facts.extra.get("decoder") == "gpu" and channels == 3

    def reader(self, config: StreamConfig) -> "NewFilesReader":
        by_gpu = self.by_gpu and config.device.type == "cuda"
        return NewFilesReader(self, "gpu" if by_gpu else "cpu", config.device)

    def size(self, row: int) -> int:
        """Return a file's size in bytes; 0 if there is no such file."""
        if self.archive:
            return self.archive.sizes[row]
        try:
            return self.files[row].stat().st_size
        except OSError:
            return 0

    def _read(self, row: int, choose: Choose, read: Any) -> np.ndarray | Jpeg | None:
        """Return an image, or None if it can't be used: then its problem is noted."""
        try:
            content = self._content(row)
            with beside_others() as received:
                before = received()
                image = read(content, self.config.size, choose, self.files.bits)
                heard = received() != before
        except ImageDecodeError as reason:
            self.noted[row] = str(reason)
            return None
        problem = inspect_content(content).problem if heard else None
        if problem:
            self.noted[row] = problem
            return None
        return image

    def _content(self, row: int) -> bytes:
        """Return the content of a file. Raises ImageDecodeError."""
        if self.archive:
            return self.archive.read(row)
        path: Path = self.files[row]
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise ImageDecodeError("does not exist") from None
        except OSError as error:
            raise ImageDecodeError(f"can't be read: {error.strerror}") from None


class NewFilesReader(ImageReader):
    """Reads batches of new files; what is wrong with some goes from the workers to `problems`."""

    rows: NewFiles

    def slot_size(self, batch_size: int) -> int:
        if self.decoder == "cpu":
            return self.image_bytes * batch_size
        sample = range(0, self.rows.n, max(self.rows.n // 100, 1))
        return int(1.5 * np.mean([self.rows.size(row) for row in sample])) * batch_size

    def read(
        self, index: np.ndarray, length: int | None, uniforms: Uniforms | None, slot: np.ndarray
    ) -> Any:
        self.rows.noted = {}
        with self.rows.hushed():
            return super().read(index, length, uniforms, slot), self.rows.noted

    def finish(self, index: Tensor, slot: Tensor, rest: Any, device: torch.device) -> ImageBatch:
        packed, noted = rest
        self.rows.problems |= noted
        try:
            batch = super().finish(index, slot, packed, device)
        except UserError:
            batch = self._finish_each(index, slot, packed, device)
        return batch._replace(labels=None)  # type: ignore[arg-type]

    def _finish_each(
        self, index: Tensor, slot: Tensor, packed: Packed, device: torch.device
    ) -> ImageBatch:
        """Return the batch although the GPU can't decode all of its files."""
        jpegs, decoded = packed
        batch, start = super().finish(index, slot, (jpegs[:0], decoded), device), 0
        for i, (size, place) in enumerate(jpegs[:, :2].tolist()):
            one, bytes_ = (jpegs[i : i + 1], dict[int, np.ndarray]()), slot[start : start + size]
            try:
                images = super().finish(index, bytes_, one, device).images
                batch.images[place] = images[place]
            except UserError:
                self.rows.problems[int(index[place])] = "can't be decoded"
            start += size
        return batch
