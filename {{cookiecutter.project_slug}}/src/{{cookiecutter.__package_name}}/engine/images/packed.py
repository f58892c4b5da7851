"""The JPEGs of a batch as a worker hands them over, for the GPU to decode."""

from collections.abc import Iterable

import numpy as np

from .decode import Jpeg, Size, cropped

# For each of m JPEGs, int64 (m, 9): how many bytes it has, its row in the batch, the box that is
# seen of it, the whole's width and height. The finished images of other rows.
Packed = tuple[np.ndarray, dict[int, np.ndarray]]


def pack(images: Iterable[Jpeg | np.ndarray], buffer: np.ndarray, size: Size) -> Packed:
    """Lay the JPEGs among the images of a batch one after another into `buffer`, uint8 (bytes,).

    One that finds no room any more is decoded here, to `size`.
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
