"""Checks of the pixels and labels that a source in data.py passes to in_memory().

Each error says what was found, what was expected, and code that fixes it.
"""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.first_batch import described
from ..errors import UserError

ORDER = "(n, height, width, channels)"
PICTURES = (1, 3, 4)  # channels of grey, RGB and RGB with alpha
NUMBERS = "biuf"  # kinds of NumPy's dtypes


def as_pixels(pixels: Any) -> Tensor:
    """Return pixels, uint8 (n, h, w, c), as a tensor. Raises UserError if they are anything else.

    They are not copied, and their values are not read. Shapes such as (n, 3, 32, 32) are refused:
    channels are first there.
    """
    found = _as_tensor(pixels, "pixels", f"one array of images of the same size, {ORDER}")
    shape = tuple(found.shape)
    if found.ndim != 4:
        fix = "add the axis of the one channel: pixels[..., None]"
        if found.ndim != 3:
            fix = f"pixels.reshape{ORDER}"
        raise UserError(f"in_memory(): pixels have the shape {shape}; expected {ORDER}: {fix}.")
    _, height, width, channels = shape
    if height in PICTURES and width > height and channels > 4 and 4 * channels >= width:
        move = "movedim(1, -1)" if isinstance(pixels, Tensor) else "transpose(0, 2, 3, 1)"
        raise UserError(
            f"in_memory(): pixels have the shape {shape}, images of {height} by {width} pixels with"
            f" {channels} channels; expected {ORDER}: put the channels last, pixels.{move}."
        )
    if found.dtype != torch.uint8:
        raise UserError(_other_pixels(found, isinstance(pixels, Tensor)))
    return found


def as_labels(labels: Any) -> Tensor:
    """Return labels as a tensor: int64 (n,), or float32 (n,) or (n, labels), 1 or 0.

    Raises UserError if they are text, of another shape, or not finite, or if several labels an
    image are not between 0 and 1.
    """
    expected = (
        "numbers, one for each image. For names, before the division into splits: names, labels ="
        " np.unique(labels, return_inverse=True), and classes=tuple(names.tolist())"
    )
    found = _as_tensor(labels, "labels", expected)
    if found.ndim not in (1, 2):
        raise UserError(
            f"in_memory(): labels have the shape {tuple(found.shape)}; expected (n,), one for each"
            " image, or (n, labels), 1 where an image has a label."
        )
    one_class = found.ndim == 1 and not found.is_floating_point()
    found = found.to(torch.int64 if one_class else torch.float32)
    if not found.isfinite().all():
        wrong = int((~found.isfinite()).sum())
        raise UserError(
            f"in_memory(): {wrong} of {found.numel()} labels are NaN or infinite; expected numbers:"
            " leave these images out."
        )
    if found.ndim == 2 and found.numel() and not (found.min() >= 0 and found.max() <= 1):
        raise UserError(
            f"in_memory(): labels have the shape {tuple(found.shape)} and are {span(found)};"
            " expected 1 where an image has a label, else 0. If each image has one class: whole"
            " numbers of the shape (n,)."
        )
    return found


def check_classes(classes: Any) -> None:
    """Raise UserError unless the names of the classes are str, not a number or NumPy's own text."""
    if not isinstance(classes, (tuple, list)) or any(type(name) is not str for name in classes):
        raise UserError(
            f"ImageSplits: classes are {reprlib.repr(classes)}; expected a tuple of str, such as"
            " tuple(map(str, classes))."
        )


def check_labels(labels: Tensor, classes: Sequence[str], where: str) -> None:
    """Raise UserError if labels don't fit the classes: int64 from 0 to len(classes) - 1, float32
    (n,) without classes, or float32 (n, classes). `where` is the name of their split.
    """
    named = f"{len(classes)} ({', '.join(classes[:3])}{' …' * (len(classes) > 3)})"
    named = f"classes of ImageSplits names {named if classes else 'none'}"
    found = f"The labels of {where} are"
    if labels.ndim == 2:
        if labels.shape[1] != len(classes):
            raise UserError(
                f"{found} {described(labels)}, and {named}; expected a column for each label or, if"
                " each image has one class, whole numbers of the shape (n,)."
            )
        return
    found += f" {span(labels)}"
    if labels.is_floating_point():
        if classes:
            raise UserError(
                f"{found}, floating point numbers, and {named}; expected whole numbers for classes,"
                " labels.astype(np.int64). For numbers to learn, pass classes=()."
            )
        return
    if not labels.numel():
        return
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < len(classes):
        return
    fix = "name each class, and number them from 0 in the order of their names"
    if low > 0 and high - low < len(classes):
        fix = f"number the classes from 0, such as labels - {low}"
    expected = f"0 to {len(classes) - 1}" if classes else "a name for each class"
    raise UserError(f"{found}, and {named}; expected {expected}: {fix}.")


def span(values: Tensor) -> str:
    """Return the least and the largest of some values, such as "0.0 to 1.0"."""
    if not values.numel():
        return "empty"
    array = _as_array(values)
    return f"{_short(array.min())} to {_short(array.max())}"


def _as_tensor(values: Any, name: str, expected: str) -> Tensor:
    """Return numbers as a tensor that shares their memory, if that is possible."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
    except ValueError:  # the rows have different shapes
        raise UserError(f"in_memory(): {name} differ in shape; expected {expected}.") from None
    if array.dtype.kind not in NUMBERS:
        raise UserError(f"in_memory(): {name} are {_kind(array)}; expected {expected}.")
    if min(array.strides, default=0) < 0:  # of a reversed axis: torch has none
        array = array.copy()
    return torch.as_tensor(array)


def _kind(array: np.ndarray) -> str:
    """Return what an array has that are no numbers, with its first value."""
    if not array.size:
        return f"of the type {array.dtype}"
    first = array.flat[0]
    return f"text, such as {str(first)!r}" if isinstance(first, str) else f"{type(first).__name__}"


def _as_array(values: Tensor) -> np.ndarray:
    return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()


def _short(value: Any) -> str:
    return f"{value:.4}" if isinstance(value, np.floating) else str(value)


def _other_pixels(pixels: Tensor, is_tensor: bool) -> str:
    """Return what to say of pixels that are not uint8: their values, and how to convert them."""
    found = f"in_memory(): pixels are {described(pixels).partition(' ')[0]}"
    expected = "; expected uint8, 0 to 255"
    if not pixels.numel():
        return f"{found}{expected}."
    array = _as_array(pixels)
    low, high = float(array.min()), float(array.max())
    rounded = ".round()" if pixels.is_floating_point() else ""
    if low >= 0 and high <= 1:
        scaled = f"(pixels * 255){rounded}"
    elif low >= 0 and high <= 255:
        scaled = f"pixels{rounded}"
    else:
        shifted = f"(pixels {'-' if low > 0 else '+'} {abs(low):g})" if low else "pixels"
        scaled = f"({shifted} * {255 / (high - low or 1):g}).round()"
    cast = ".to(torch.uint8)" if is_tensor else ".astype(np.uint8)"
    fix = f", such as {scaled}{cast}" if np.isfinite(high - low) else ""
    return f"{found}, {span(pixels)}{expected}{fix}."
