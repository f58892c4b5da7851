"""Float32 numbers in tables for people: 8.43, not 8.430000305175781, the same number in 64 bits."""

from typing import Any

import numpy as np
from torch import Tensor


def short(number: float) -> float:
    """Return the float with the fewest digits that is the same float32; others stay as they are."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
    return float(str(single)) if float(single) == number else number


def short_list(values: Tensor) -> Any:
    """Return values.tolist(); floats have the fewest digits that give the same float32."""
    if not values.is_floating_point():
        return values.tolist()
    numbers = (values if values.element_size() > 4 else values.float()).numpy(force=True)
    return numbers.astype(str).astype(float).tolist()
