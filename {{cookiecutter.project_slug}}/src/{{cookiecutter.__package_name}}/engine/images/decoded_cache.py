"""Image files decoded once, into a file of pixels that is mapped into memory.

It lies in the user's cache folder under the content's digest; deleting it costs the next decoding.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.batch import PADDING_LABEL
from ..data.order import Plan, Share
from ..data.streaming import StreamingLoader
from ..errors import UserError
from ..hardware import cache_folder, this_machine
from .reader import Reading
from .splits import Files, Images, alone_in

BATCH = 64  # images that a worker hands over together


def decoded(files: Files, size: int) -> Images:
    """Return the middle square of every image, `size` pixels wide and high, mapped into memory.

    Raises UserError if there is no room on the disk, or an image can't be read.
    """
    folder = cache_folder() / "decoded-images"
    path, needed = folder / f"{files.content()}-{size}.npy", len(files) * size**2 * 3
    with alone_in(folder) as writable:
        try:
            pixels = np.load(path, mmap_mode="c")
        except (OSError, ValueError, EOFError):  # not there, or cut short
            free = shutil.disk_usage(folder).free if writable else 0
            if needed > free:
                raise UserError(
                    f"The decoded images take {needed / 1e6:,.0f} MB, and {folder} has"
                    f" {free / 1e6:,.0f} MB free. Name another place with XDG_CACHE_HOME, or read"
                    " the files at each epoch: --data.loader streaming."
                ) from None
            _write(files, size, path)
            pixels = np.load(path, mmap_mode="c")
    return Images(torch.from_numpy(pixels), files.labels)


def _write(files: Files, size: int, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    pixels = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (len(files), size, size, 3))
    workers = this_machine().cores if len(files) > 8 * BATCH else 0
    batches = StreamingLoader(files, Plan(len(files), Share(BATCH)), Reading(size, workers=workers))
    for batch in tqdm(batches, desc="decoding images, once", delay=1, disable=None):
        real = batch.labels != PADDING_LABEL
        pixels[batch.indices[real].numpy()] = batch.images.permute(0, 2, 3, 1)[real].numpy()
    pixels.flush()
    unfinished.replace(path)
