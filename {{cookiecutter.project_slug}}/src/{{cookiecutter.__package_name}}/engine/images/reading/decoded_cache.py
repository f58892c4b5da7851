"""A cache of decoded images: one file of pixels per split, mapped into memory.

It is in the user's cache folder, named by the content's digest. If it is deleted, the next run
decodes the images again.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ...data.order import BatchShard, EpochPlan
from ...data.streaming import Reader, StreamConfig, StreamingLoader
from ...errors import UserError
from ...hardware import this_machine
from ...paths import cache_folder, exclusive_lock
from ..batch import ImageBatch
from ..decoding.boxes import Size
from ..decoding.decode import VERSION
from ..splits import Files, content

BATCH = 64  # images that a worker decodes per request

MakeReader = Callable[[StreamConfig], Reader]  # its reader returns center crops of the same size


def decoded(files: Files, size: Size, reader: MakeReader) -> ImageBatch:
    """Return the center crop of every image, resized to width and height, mapped into memory.

    Raises UserError if the disk is too full, or an image can't be read.
    """
    folder = cache_folder() / "decoded-images"
    width, height = size
    pixels_of = f"{width}" if width == height else f"{height}x{width}"
    name = f"{content(files)}-{pixels_of}-{files.bits}-{files.channels}-{VERSION}.npy"
    path, needed = folder / name, files.n * width * height * files.channels
    with exclusive_lock(folder) as writable:
        try:
            pixels = np.load(path, mmap_mode="c")
        except (OSError, ValueError, EOFError):  # missing or truncated
            if not writable:
                raise UserError(
                    f"{folder} can't be written to, where decoded images are kept. Set"
                    " XDG_CACHE_HOME to another folder, or read the files in each epoch:"
                    " --data.loader streaming."
                ) from None
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise UserError(
                    f"The decoded images take {needed / 1e6:,.0f} MB, and {folder} has"
                    f" {free / 1e6:,.0f} MB free. Set XDG_CACHE_HOME to another folder, or read"
                    " the files in each epoch: --data.loader streaming."
                ) from None
            _write(files, size, reader, path)
            pixels = np.load(path, mmap_mode="c")
    images = torch.as_tensor(pixels).permute(0, 3, 1, 2)
    return ImageBatch(images, files.labels, torch.arange(files.n))


def _write(files: Files, size: Size, reader: MakeReader, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    shape = (files.n, size[1], size[0], files.channels)
    pixels = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
    workers = this_machine().cores if files.n > 8 * BATCH else 0
    config = StreamConfig(workers=workers)
    batches = StreamingLoader(reader(config), EpochPlan(files.n, BatchShard(BATCH)), config)
    for batch in tqdm(batches, desc="decoding images, once", delay=1, disable=None):
        real = batch.row >= 0
        pixels[batch.row[real].numpy()] = batch.images.permute(0, 2, 3, 1)[real].numpy()
    pixels.flush()
    unfinished.replace(path)
