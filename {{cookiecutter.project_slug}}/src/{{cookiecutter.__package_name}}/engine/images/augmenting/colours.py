"""The colours of images: each function works on whole batches, with a number for each image.

`images` are (n, c, h, w) with values from 0 to 255; factors are float32 (n,), and 1 changes
nothing. A fourth channel is alpha and stays as it is. Only images of three or four channels have a
saturation and a hue. Sums are of integers, so an image does not depend on its batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

LUMA = 0.2989, 0.587, 0.114  # of red, green and blue: ITU-R BT.601


def without_alpha(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the uint8 images with `change` applied to the channels other than alpha."""
    if images.shape[1] != 4:
        return change(images)
    joined = torch.cat([change(images[:, :3]), images[:, 3:]], 1)
    return joined.contiguous(memory_format=torch.channels_last)


def jitter(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor | None
) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, and round to uint8.

    `images` are uint8. The first three are factors; `hue` is a share of the colour circle;
    None leaves it.
    """
    values = (images * _of_image(brightness)).clamp(0, 255)
    values = blend(values, mean_grey(values), contrast)
    if images.shape[1] == 3:
        values = blend(values, grey(values), saturation)
        values = values if hue is None else shift_hue(values, hue)
    return to_uint8(values)


def blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return `share` of the images and the rest of `other`, as floats; a share may exceed 1."""
    share = _of_image(share)
    return (images * share + other * (1 - share)).clamp(0, 255)


def grey(images: Tensor) -> Tensor:
    """Return the brightness as a float (n, 1, h, w): of other than three channels, the mean."""
    if images.shape[1] != 3:
        return images.float().mean(1, keepdim=True)
    red, green, blue = images.split(1, 1)
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]


def blurred(images: Tensor) -> Tensor:
    """Return the mean of each pixel and its 8 neighbours, as a float; the pixel counts 5 times.

    The pixels at the edges stay as they are.
    """
    values = images.float()
    if min(images.shape[2:]) > 2:
        inner = values[..., 1:-1, 1:-1]
        values = values.clone()
        values[..., 1:-1, 1:-1] = (avg_pool2d(images.float(), 3, 1) * 9 + inner * 4) / 13
    return values


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Return RGB images, floats, whose hue has moved by a share of the colour circle.

    Value and chroma of HSV stay (Smith, "Color gamut transform pairs", SIGGRAPH 1978).
    """
    red, green, blue = images.split(1, 1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    some = chroma.where(chroma > 0, 1)
    of_blue = torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some)
    sixths = torch.where(value == red, (green - blue) / some, of_blue) + 6 * _of_image(shift)
    start = torch.arange(5, 0, -2, device=images.device)[:, None, None]  # 5, 3, 1
    place = (start + sixths) / 6
    place = 6 * (place - place.floor())  # where each channel is in its cycle, from 0 to 6
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def to_uint8(values: Tensor) -> Tensor:
    return values.round().to(torch.uint8)


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace each value by that of its image's and channel's table, uint8 (n, 256, c)."""
    n, c, height, width = images.shape
    found = tables.gather(1, _values(images))
    return found.view(n, height, width, c).permute(0, 3, 1, 2)


def histograms(images: Tensor) -> Tensor:
    """Return how often each value occurs in each image and channel: integers (n, 256, c).

    A deterministic scatter_add sorts its indices on a GPU; sorting the values alone is faster.
    Compiled code has Triton, and need not sort.
    """
    if not images.is_cuda:
        values = _values(images)
        counts = values.new_zeros(len(images), 256, images.shape[1])
        return counts.scatter_add_(1, values, values.new_ones(()).expand_as(values))
    if torch.compiler.is_compiling():
        from .counting import count

        return count(images)
    ordered = images.flatten(2).sort(2).values
    levels = torch.arange(256, dtype=torch.uint8, device=images.device)
    levels = levels.expand(*ordered.shape[:2], 256).contiguous()
    upto = torch.searchsorted(ordered.contiguous(), levels, right=True)
    return upto.diff(dim=2, prepend=upto.new_zeros(*upto.shape[:2], 1)).transpose(1, 2)


def _values(images: Tensor) -> Tensor:
    """Return uint8 images as indices, int64 (n, pixels, c)."""
    return images.permute(0, 2, 3, 1).flatten(1, 2).long()


def mean_grey(images: Tensor) -> Tensor:
    """Return the mean brightness of each image, float32 (n, 1, 1, 1)."""
    whole = grey(images).long()
    return (whole.sum((1, 2, 3), keepdim=True).double() / whole[0].numel()).float()


def _of_image(numbers: Tensor) -> Tensor:
    """Return one number for each image, float32 (n,), for all of its values."""
    return numbers[:, None, None, None]
