"""JPEG files to batches by the GPU's own decoder (nvJPEG), for machines with few cores for a GPU.

By default all streams share 8 queues of CUDA. nvJPEG has 14 of its own: one shares training's queue
and waits there for a whole step, the others wait for it. A batch of 256 beside ResNet-50 on an H200
takes 51 ms then, and 38 with the 32 queues that cli/main.py asks for.

The workers only read the files. What the decoder does not read as libjpeg does (turned by a camera,
CMYK, PNG …) they decode themselves. Two kernels cut, resize and mirror the images, each of another
size, as decode.py does: linear, reaching as far as it shrinks, rows first, rounded in between.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from .decode import ImageDecodeError
from .packed import Packed

PIXELS_AT_ONCE = 128 * 2**20  # that are decoded together, each of three bytes


def decode(buffer: Tensor, packed: Packed, images: Tensor) -> None:
    """Write a batch's images into uint8 (n, size, size, 3) on a GPU. Raises ImageDecodeError."""
    jpegs, first = torch.from_numpy(packed[0]), 0
    done = {row: torch.from_numpy(image).to(images.device) for row, image in packed[1].items()}
    for row, image in done.items():  # kept to the end: nvJPEG's own stream may write where it was
        images[row] = image
    lengths = jpegs[:, 0].tolist()
    files = buffer[: sum(lengths)].split(lengths) if lengths else ()
    while first < len(files):
        fitting = (jpegs[first:, 7] * jpegs[first:, 8]).cumsum(0) <= PIXELS_AT_ONCE
        part = slice(first, first + max(int(fitting.sum()), 1))
        whole = _whole(list(files[part]), images.device)
        crop_and_resize(whole, jpegs[part, 1:].int(), images)
        torch.cuda.current_stream(images.device).synchronize()  # nvJPEG's own stream writes anew
        first = part.stop


def _whole(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return the decoded images, uint8 (3, height, width); the CPU reads what nvJPEG does not."""
    try:
        return decode_jpeg(files, ImageReadMode.RGB, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if len(files) > 1:
            return [image for file in files for image in _whole([file], device)]
        try:
            return [decode_jpeg(files[0], ImageReadMode.RGB).to(device)]
        except RuntimeError:
            raise ImageDecodeError(f"can't be decoded: {error}") from None


def crop_and_resize(whole: list[Tensor], how: Tensor, images: Tensor) -> None:
    """Write the boxes of images into rows of a batch.

    Args:
        whole: m uint8 tensors (3, height, width) on one device, each of another size.
        how: int32 (m, 8): row in the batch, box, width, height, as Packed has them.
        images: uint8 (n, size, size, 3) on that device, contiguous: the batch.
    """
    whole = [image.contiguous() for image in whole]
    device, size, block = images.device, images.shape[1], triton.next_power_of_2(images.shape[1])
    rows = int((how[:, 4] - how[:, 2]).max())  # of the highest box
    sources = torch.tensor([image.data_ptr() for image in whole]).to(device)
    between = torch.empty(len(whole), rows, 3, size, dtype=torch.uint8, device=device)
    how = how.contiguous().to(device)
    _resize_rows[(len(whole), rows)](sources, how, between, rows, size, block)
    _resize_columns[(len(whole), size)](how, between, images, rows, size, block)


@triton.jit
def _taps(position, length, size):
    """Return middle, reach, first and last (exclusive) of the pixels that make an output pixel."""
    scale = length.to(tl.float32) / size
    reach = tl.maximum(scale, 1.0)
    middle = (position + 0.5) * scale
    first = tl.maximum((middle - reach + 0.5).to(tl.int32), 0)
    last = tl.minimum((middle + reach + 0.5).to(tl.int32), length)
    return middle, reach, first, last


@triton.jit
def _write(source, step, plane, middle, reach, first, last, taps, target, channel, seen):
    """Weigh the pixels from `first` on, `step` apart; the colours lie `plane` apart."""
    red = tl.zeros(seen.shape, tl.float32)
    green, blue, weights, tap = red, red, red, 0
    while tap < taps:  # no range(): Triton's interpreter, which tests it, takes no tensor there
        at = first + tap
        weight = tl.where(at < last, tl.maximum(1.0 - tl.abs(at + 0.5 - middle) / reach, 0.0), 0.0)
        pixel, inside = source + at * step, (at < last) & seen
        red += weight * tl.load(pixel, mask=inside, other=0)
        green += weight * tl.load(pixel + plane, mask=inside, other=0)
        blue += weight * tl.load(pixel + 2 * plane, mask=inside, other=0)
        weights += weight
        tap += 1
    tl.store(target, (red / weights + 0.5).to(tl.uint8), mask=seen)
    tl.store(target + channel, (green / weights + 0.5).to(tl.uint8), mask=seen)
    tl.store(target + 2 * channel, (blue / weights + 0.5).to(tl.uint8), mask=seen)


@triton.jit
def _resize_rows(sources, how, between, rows, size, BLOCK: tl.constexpr):
    image, row, x = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    how += image * 8
    left, upper, right = tl.load(how + 1), tl.load(how + 2), tl.load(how + 3)
    lower, width, height = tl.load(how + 4), tl.load(how + 6), tl.load(how + 7)
    if upper + row < lower:
        middle, reach, first, last = _taps(x, right - left, size)
        source = tl.load(sources + image).to(tl.pointer_type(tl.uint8))
        source += (upper + row).to(tl.int64) * width + left
        target = between + ((image.to(tl.int64) * rows + row) * 3) * size + x
        plane, taps = height.to(tl.int64) * width, 2 * reach + 1
        _write(source, 1, plane, middle, reach, first, last, taps, target, size, x < size)


@triton.jit
def _resize_columns(how, between, images, rows, size, BLOCK: tl.constexpr):
    image, y, x = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    how += image * 8
    row, upper, lower = tl.load(how), tl.load(how + 2), tl.load(how + 4)
    middle, reach, first, last = _taps(y, lower - upper, size)
    to = tl.where(tl.load(how + 5) != 0, size - 1 - x, x)  # mirrored
    target = images + ((row.to(tl.int64) * size + y) * size + to) * 3
    source = between + (image.to(tl.int64) * rows * 3) * size + x
    taps = last - first
    _write(source, 3 * size, size, middle, reach, first, last, taps, target, 1, x < size)
