"""Float32 numbers in tables for people: 8.43, not 8.430000305175781, the same number in 64 bits."""

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a list of runs is fast without torch
    from torch import Tensor

MOST_DIGITS = 9  # that tell any two float32 apart


def short(number: float) -> float:
    """Return the float with the fewest digits that is the same float32; others stay as they are."""
    if _single(number) != number:
        return number
    candidates = (float(f"{number:.{digits}g}") for digits in range(1, MOST_DIGITS + 1))
    return next(each for each in candidates if _single(each) == number)


def short_list(values: "Tensor") -> Any:
    """Return values.tolist(); floats have the fewest digits that give the same float32."""
    if not values.is_floating_point():
        return values.tolist()
    numbers = (values if values.element_size() > 4 else values.float()).numpy(force=True)
    return numbers.astype(str).astype(float).tolist()


def _single(number: float) -> float | None:
    """Return the nearest float32; None if it would be infinite."""
    try:
        return struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return None
