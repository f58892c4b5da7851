"""RandAugment and TrivialAugment: random ones of 14 operations, with torchvision's parameters.

Each image has its own operation. To run all of them on a batch at once, they are expressed as three
parts: a warp, a table of values for each channel, and a blend with a grey or a blurred image. An
image's operation uses one of the parts, and the others leave the image as it is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .colours import blend, blurred, grey, histograms, look_up, mean_grey, to_uint8, without_alpha
from .warp import rotations, warp

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
    *("colour", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
MOST_MAGNITUDE = 30


class Ranges(NamedTuple):
    """What the operations do at the largest magnitude.

    `translate` is in pixels, across and down; `rotate` in degrees. `enhance` is how far a factor is
    from 1. `bits` are those that posterizing removes.
    """

    shear: float
    translate: tuple[float, float]
    rotate: float
    enhance: float
    bits: int


def rand_augment(images: Tensor, uniforms: Tensor, magnitude: int) -> Tensor:
    """Apply two operations at this magnitude, 0 to 30 (Cubuk et al., 2020).

    `images` are uint8 (n, c, h, w), `uniforms` (n, 4): operation and sign, twice.
    """
    height, width = images.shape[2:]
    reach = 150 / 331  # of the side: 150 pixels of the 331 of AutoAugment's images
    ranges = Ranges(0.3, (reach * width, reach * height), 30.0, 0.9, 4)
    for chosen, sign in (uniforms[:, :2].unbind(1), uniforms[:, 2:].unbind(1)):
        size = torch.full_like(sign, magnitude / MOST_MAGNITUDE)
        images = operate(images, _one_of(chosen), size, sign < 0.5, ranges)
    return images


def trivial_augment(images: Tensor, uniforms: Tensor) -> Tensor:
    """Apply one operation at a random magnitude (Müller and Hutter, 2021; the wide space).

    `images` are uint8 (n, c, h, w), `uniforms` (n, 3): operation, magnitude, sign.
    """
    chosen, size, sign = uniforms.unbind(1)
    size = (size * (MOST_MAGNITUDE + 1)).floor() / MOST_MAGNITUDE
    ranges = Ranges(0.99, (32.0, 32.0), 135.0, 0.99, 6)
    return operate(images, _one_of(chosen), size, sign < 0.5, ranges)


def operate(
    images: Tensor, operation: Tensor, size: Tensor, negative: Tensor, ranges: Ranges
) -> Tensor:
    """Apply to each image the operation with this index in OPERATIONS.

    `size`, float32 (n,), is the magnitude from 0 to 1; where `negative`, it has the other sign, if
    the operation has one.
    """
    signed = size.where(~negative, -size)
    images = warp(images, _matrices(images, operation, signed, ranges))
    factor = 1 + signed * ranges.enhance

    def change(colours: Tensor) -> Tensor:
        tables = _tables(colours, operation, size, factor, ranges.bits)
        return _enhance(look_up(colours, tables), operation, factor)

    return without_alpha(images, change)


def _one_of(uniform: Tensor) -> Tensor:
    return (uniform * len(OPERATIONS)).long()


def _is(operation: Tensor, name: str) -> Tensor:
    return operation == OPERATIONS.index(name)


def _matrices(images: Tensor, operation: Tensor, signed: Tensor, ranges: Ranges) -> Tensor:
    """Return the matrices, float32 (n, 2, 3), of the images that are sheared, moved or turned."""
    degrees = signed * ranges.rotate
    matrices = rotations(degrees.where(_is(operation, "rotate"), 0))
    slope = signed * ranges.shear
    for axis, name in enumerate(("x", "y")):
        sheared = slope.where(_is(operation, f"shear_{name}"), 0)
        pixels = (signed * ranges.translate[axis]).trunc()
        moved = pixels.where(_is(operation, f"translate_{name}"), 0)
        matrices[:, axis, 1 - axis] += sheared
        # A shear leaves the upper left corner where it is, not the center.
        matrices[:, axis, 2] += sheared * images.shape[2 + axis] / 2 - moved
    return matrices


def _tables(images: Tensor, operation: Tensor, size: Tensor, factor: Tensor, bits: int) -> Tensor:
    """Return the value that replaces each value, uint8 (n, 256, c)."""
    old = torch.arange(256.0, device=images.device)[None, :, None]
    size, factor = size[:, None, None], factor[:, None, None]
    counts = histograms(images)
    removed = (size * bits).round().exp2()
    new = {
        "brightness": old * factor,
        "contrast": old * factor + mean_grey(images)[..., 0] * (1 - factor),
        "posterize": (old / removed).floor() * removed,
        "solarize": torch.where(old >= 255 * (1 - size), 255 - old, old),
        "autocontrast": _stretched(old, counts),
        "equalize": _equalized(old, counts),
    }
    tables = old.expand(counts.shape)
    for name, values in new.items():
        tables = torch.where(_is(operation, name)[:, None, None], values, tables)
    return to_uint8(tables.clamp(0, 255))


def _stretched(old: Tensor, counts: Tensor) -> Tensor:
    """Return tables that stretch the values of each channel to 0 to 255."""
    occurs = counts > 0
    low = old.where(occurs, 255).amin(1, keepdim=True)
    high = old.where(occurs, 0).amax(1, keepdim=True)
    return torch.where(high > low, (old - low) * 255 / (high - low).clamp(min=1), old)


def _equalized(old: Tensor, counts: Tensor) -> Tensor:
    """Return tables that make the values of each channel about equally frequent, as Pillow does."""
    upto = counts.cumsum(1)
    highest = (old * (counts > 0)).long().amax(1, keepdim=True)
    step = (upto[:, -1:] - counts.gather(1, highest)) // 255
    below = (upto - counts + step // 2) // step.clamp(min=1)
    return torch.where(step > 0, below.float(), old)


def _enhance(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Return the images with more or less colour or sharpness, where that is the operation."""
    colours, sharpness = _is(operation, "colour"), _is(operation, "sharpness")
    other = blurred(images)
    if images.shape[1] == 3:
        other = torch.where(colours[:, None, None, None], grey(images), other)
        sharpness = sharpness | colours
    return to_uint8(blend(images, other, factor.where(sharpness, 1)))
