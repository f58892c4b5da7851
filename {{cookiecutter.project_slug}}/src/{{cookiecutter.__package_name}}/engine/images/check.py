"""Does a network fit the images and classes that it is to tell apart?"""

from typing import Any

import torch


def check_logits(logits: Any, rows: int, num_classes: int) -> str | None:
    """Return what is wrong with outputs for `rows` images: one logit a class is right."""
    expected = (rows, num_classes)
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found == expected:
        return None
    images = "one image" if rows == 1 else f"{rows} images"
    return (
        f"returns {found} for {images}, and not {expected}: a logit for each class of the data. See"
        " its last layer in networks.py."
    )
