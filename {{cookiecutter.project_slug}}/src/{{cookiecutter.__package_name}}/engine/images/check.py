"""The check that a network returns one logit per class."""

from typing import Any

import torch


def check_logits(logits: Any, rows: int, num_classes: int) -> str | None:
    """Return what is wrong with the logits of `rows` images, or None if they have one per class."""
    expected = (rows, num_classes)
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found == expected:
        return None
    images = "one image" if rows == 1 else f"{rows} images"
    return (
        f"returns {found} for {images}; expected {expected}, a logit for each class of the data."
        " Change its last layer in networks.py."
    )
