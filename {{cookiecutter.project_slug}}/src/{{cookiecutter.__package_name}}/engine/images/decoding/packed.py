"""The undecoded JPEGs of a batch, packed by a worker for the GPU to decode."""

from collections.abc import Iterable

import numpy as np

from .boxes import Size
from .decode import Jpeg, cropped

# For m JPEGs, int64 (m, 9): number of bytes, row in the batch, box (5), the image's width and
# height. Then the decoded images of the other rows, by row.
Packed = tuple[np.ndarray, dict[int, np.ndarray]]


def pack(images: Iterable[Jpeg | np.ndarray], buffer: np.ndarray, size: Size) -> Packed:
    """Copy the JPEGs among a batch's images one after another into `buffer`, uint8 (bytes,).

    JPEGs that no longer fit are decoded here, to `size`.
    """
    jpegs, done, used = [], {}, 0
    for row, image in enumerate(images):
        if not isinstance(image, tuple):
            done[row] = image
            continue
        content, box, whole = image
        end = used + len(content)
        if end > len(buffer):
            done[row] = cropped(content, size, lambda *_, box=box: box)
            continue
        buffer[used:end] = np.frombuffer(content, np.uint8)
        jpegs.append([len(content), row, *box, *whole])
        used = end
    return np.array(jpegs, np.int64).reshape(-1, 9), done
