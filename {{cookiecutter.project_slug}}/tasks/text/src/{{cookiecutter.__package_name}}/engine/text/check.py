"""The check that a network returns what its objective reads."""

from typing import Any

import torch


def check_outputs(found: Any, expected: tuple[int, ...]) -> str | None:
    """Return what is wrong with a network's outputs, or None if they have the expected shape."""
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape == expected:
        return None
    meanings = ("rows", "tokens", "outputs") if len(expected) == 3 else ("rows", "outputs")
    return f"returns {shape}; expected {expected}: {', '.join(meanings)}. Change its last layer."
