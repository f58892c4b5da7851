"""Decoding batches of JPEG files on the GPU (nvJPEG), for machines with few cores per GPU.

By default all CUDA streams share 8 queues. nvJPEG has 14 streams: one shares a queue with training
and waits there for a whole step, and the others wait for it. Beside ResNet-50 on an H200, a batch
of 256 then takes 51 ms, and 38 ms with the 32 queues that fast/first_use.py sets.

The workers only read files. They decode those for which nvJPEG differs from libjpeg (EXIF rotation,
CMYK, PNG …). Two kernels crop, resize and mirror images of different sizes as decode.py does:
bilinear with antialiasing, rows first, rounded in between.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from .decode import ImageDecodeError
from .packed import Packed

PIXELS_AT_ONCE = 128 * 2**20  # decoded together, three bytes each


def decode(buffer: Tensor, packed: Packed, images: Tensor) -> None:
    """Decode a batch into `images`, uint8 (n, height, width, 3) on a GPU. Raises ImageDecodeError.

    `buffer`, uint8 (bytes,), holds the content of the JPEGs that `packed` describes.
    """
    jpegs, first = torch.from_numpy(packed[0]), 0
    done = {row: torch.from_numpy(image).to(images.device) for row, image in packed[1].items()}
    for row, image in done.items():  # `done` stays alive: nvJPEG's stream could reuse its memory
        images[row] = image
    lengths = jpegs[:, 0].tolist()
    files = buffer[: sum(lengths)].split(lengths) if lengths else ()
    while first < len(files):
        fitting = (jpegs[first:, 7] * jpegs[first:, 8]).cumsum(0) <= PIXELS_AT_ONCE
        part = slice(first, first + max(int(fitting.sum()), 1))
        whole = _whole(list(files[part]), images.device)
        crop_and_resize(whole, jpegs[part, 1:].int(), images)
        torch.cuda.current_stream(images.device).synchronize()  # nvJPEG's stream reuses the memory
        first = part.stop


def _whole(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return decoded images, uint8 (3, height, width); the CPU decodes those that nvJPEG can't."""
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


def crop_and_resize(whole: list[Tensor], crops: Tensor, images: Tensor) -> None:
    """Crop a box from each image, resize it and write it into a row of a batch.

    Args:
        whole: m uint8 tensors (3, height, width) on one device; sizes may differ.
        crops: int32 (m, 8): row in the batch, box (5), width, height, as in Packed.
        images: the batch, uint8 (n, height, width, 3) on the same device, contiguous.
    """
    whole = [image.contiguous() for image in whole]
    device, (height, width) = images.device, images.shape[1:3]
    block = triton.next_power_of_2(width)
    rows = int((crops[:, 4] - crops[:, 2]).max())  # of the highest box
    sources = torch.tensor([image.data_ptr() for image in whole]).to(device)
    between = torch.empty(len(whole), rows, 3, width, dtype=torch.uint8, device=device)
    crops = crops.contiguous().to(device)
    _resize_rows[(len(whole), rows)](sources, crops, between, rows, width, block)
    _resize_columns[(len(whole), height)](crops, between, images, rows, width, height, block)


@triton.jit
def _taps(position, length, size):
    """Return the input pixels of an output pixel: center, reach, first and last (exclusive)."""
    scale = length.to(tl.float32) / size
    reach = tl.maximum(scale, 1.0)
    center = (position + 0.5) * scale
    first = tl.maximum((center - reach + 0.5).to(tl.int32), 0)
    last = tl.minimum((center + reach + 0.5).to(tl.int32), length)
    return center, reach, first, last


@triton.jit
def _write(source, step, plane, center, reach, first, last, taps, target, channel, seen):
    """Write a weighted mean of the pixels from `first` to `last`, for each colour.

    Pixels are `step` bytes apart and colours `plane` bytes.
    """
    red = tl.zeros(seen.shape, tl.float32)
    green, blue, weights, tap = red, red, red, 0
    while tap < taps:  # range() takes no tensor in Triton's interpreter, which the tests use
        at = first + tap
        weight = tl.where(at < last, tl.maximum(1.0 - tl.abs(at + 0.5 - center) / reach, 0.0), 0.0)
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
def _resize_rows(sources, crops, between, rows, size, BLOCK: tl.constexpr):
    image, row, x = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    crops += image * 8
    left, upper, right = tl.load(crops + 1), tl.load(crops + 2), tl.load(crops + 3)
    lower, width, height = tl.load(crops + 4), tl.load(crops + 6), tl.load(crops + 7)
    if upper + row < lower:
        center, reach, first, last = _taps(x, right - left, size)
        source = tl.load(sources + image).to(tl.pointer_type(tl.uint8))
        source += (upper + row).to(tl.int64) * width + left
        target = between + ((image.to(tl.int64) * rows + row) * 3) * size + x
        plane, taps = height.to(tl.int64) * width, 2 * reach + 1
        _write(source, 1, plane, center, reach, first, last, taps, target, size, x < size)


@triton.jit
def _resize_columns(crops, between, images, rows, width, height, BLOCK: tl.constexpr):
    image, y, x = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    crops += image * 8
    row, upper, lower = tl.load(crops), tl.load(crops + 2), tl.load(crops + 4)
    center, reach, first, last = _taps(y, lower - upper, height)
    to = tl.where(tl.load(crops + 5) != 0, width - 1 - x, x)  # mirrored
    target = images + ((row.to(tl.int64) * height + y) * width + to) * 3
    source = between + (image.to(tl.int64) * rows * 3) * width + x
    taps = last - first
    _write(source, 3 * width, width, center, reach, first, last, taps, target, 1, x < width)
