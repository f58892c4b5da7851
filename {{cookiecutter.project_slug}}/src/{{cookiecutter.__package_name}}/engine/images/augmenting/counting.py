"""Counting the values of images on a GPU by a kernel: PyTorch's own ways to count sort them."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def count(images: Tensor) -> Tensor:
    """Return how often each value occurs in each image and channel: int32 (n, 256, c).

    `images` are uint8 (n, c, h, w) on a GPU. Integers are added, so the order doesn't matter.
    """
    pixels = images.flatten(2)
    n, c, length = pixels.shape
    counts = torch.empty(n, c, 256, dtype=torch.int32, device=images.device)
    _count[(n * c,)](pixels, counts, c, length, *pixels.stride(), 1024)
    return counts.transpose(1, 2)


@triton.jit
def _count(pixels, counts, c, length, image, channel, pixel, BLOCK: tl.constexpr):
    row, levels = tl.program_id(0).to(tl.int64), tl.arange(0, 256)
    pixels += row // c * image + row % c * channel
    total, first = tl.zeros([256], tl.int32), 0
    while first < length:  # range() takes no tensor in Triton's interpreter, which the tests use
        place = first + tl.arange(0, BLOCK)
        values = tl.load(pixels + place * pixel, mask=place < length, other=0)
        total += tl.histogram(values.to(tl.int32), 256, mask=place < length)
        first += BLOCK
    tl.store(counts + row * 256 + levels, total)
