"""Showing images of any number of channels as RGB, for pictures of a data set."""

import torch
from torch import Tensor

BRIGHTEST = 0.99  # the share of the values that are not the brightest


def as_rgb(images: Tensor) -> Tensor:
    """Return images, uint8 (…, h, w, c), as RGB: uint8 (…, h, w, 3).

    One channel, or the first of two, is grey. Of four, the last is taken for alpha and shown on
    white. Of more, the first three are shown, brightened together until 1% of their values are
    white: measured light often uses few of its bits.
    """
    channels = images.shape[-1]
    if channels < 3:
        return images[..., :1].expand(*images.shape[:-1], 3)
    colours = images[..., :3]
    if channels == 3:
        return colours
    if channels == 4:
        alpha = images[..., 3:].float() / 255
        return (colours * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    values = colours.flatten().sort().values
    white = max(int(values[int(BRIGHTEST * (len(values) - 1))]), 1)
    return (colours.float() * (255 / white)).clamp(max=255).round().to(torch.uint8)
