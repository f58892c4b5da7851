"""Where the images come from: each source is a function that returns the three splits as uint8.

To add one, write a function that returns `Splits` and name it in SOURCES.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from ..errors import UserError
from .order import uniforms

# The splits never depend on the run's seed: two runs are compared on the same images.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Images:
    """One split: `pixels` uint8 (n, height, width, 3), `labels` int64 (n,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """A data set: what it is trained on, chosen by and, once, scored on."""

    classes: tuple[str, ...]
    train: Images
    val: Images
    test: Images

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every pixel and label of the three splits, and over the class names."""
        content = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.val, self.test):
            content.update(repr(tuple(split.pixels.shape)).encode())
            content.update(split.pixels.numpy().tobytes())
            content.update(split.labels.numpy().tobytes())
        return content.hexdigest()


def digits() -> Splits:
    """Return scikit-learn's handwritten digits: 1,797 real images of 8 by 8 pixels in 10 classes.

    A fifth of each class is the test split, another fifth the validation split. They are the test
    set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), and
    come inside the scikit-learn package: nothing is downloaded.
    """
    data = load_digits()
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    pixels = torch.from_numpy(np.repeat(grey[..., None], 3, axis=-1))
    labels = torch.from_numpy(data.target.astype(np.int64))
    train, test = _stratified(np.arange(len(labels)), labels.numpy(), 0.2)
    train, val = _stratified(train, labels.numpy()[train], 0.25)
    parts = [Images(pixels[index], labels[index]) for index in (train, val, test)]
    return Splits(tuple(str(name) for name in data.target_names), *parts)


def synthetic(
    image_size: int = 32, train: int = 50_000, val: int = 10_000, num_classes: int = 10
) -> Splits:
    """Return made images: noise around one colour per class, for speed measurements and tests.

    Args:
        image_size: height and width in pixels.
        train: how many training images; the validation and test splits hold `val` each.
        val: see train.
        num_classes: how many classes, each with its own mean colour.
    """
    offsets = np.cumsum([0, train, val])
    parts = [
        _noise(int(start), count, image_size, num_classes)
        for start, count in zip(offsets, (train, val, val), strict=True)
    ]
    return Splits(tuple(f"class {i}" for i in range(num_classes)), *parts)


SOURCES: dict[str, Callable[..., Splits]] = {"digits": digits, "synthetic": synthetic}


def load(name: str, options: dict[str, int] | None = None) -> Splits:
    """Return the splits of the source of that name.

    Raises:
        UserError: the name is not one of SOURCES, or the source does not take these options.
    """
    if name not in SOURCES:
        raise UserError(f"data.source is '{name}', which is unknown. Known: {', '.join(SOURCES)}.")
    try:
        return SOURCES[name](**(options or {}))
    except TypeError as error:
        raise UserError(f"data.options do not fit the source '{name}': {error}.") from error


def _stratified(index: np.ndarray, labels: np.ndarray, share: float) -> list[np.ndarray]:
    """Split an index in two, the second with that share of every class; both stay in order."""
    parts = train_test_split(index, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    return [np.sort(part) for part in parts]


def _noise(start: int, n: int, size: int, num_classes: int) -> Images:
    index = torch.arange(start, start + n)
    labels = index % num_classes
    colours = uniforms(SPLIT_SEED, 0, torch.arange(num_classes), 3)
    generator = torch.Generator().manual_seed(SPLIT_SEED + start)
    noise = torch.randint(0, 160, (n, size, size, 3), generator=generator, dtype=torch.uint8)
    return Images(noise + (colours[labels] * 95).byte()[:, None, None, :], labels)
