"""Where the images come from: each source is a function that returns the three splits.

To add one, write a function that returns `Splits` and name it in SOURCES.
"""

import inspect
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets

from .engine.data.order import uniforms
from .engine.errors import UserError
from .engine.images.folder import folder
from .engine.images.splits import Images, Splits, alone_in, located

SPLIT_SEED = 0  # never the run's: two runs are compared on the same images


def digits() -> Splits:
    """Return scikit-learn's handwritten digits: 1,797 real images of 8 by 8 pixels in 10 classes.

    A fifth of each class is the test split, another fifth the validation split. (E. Alpaydin and
    C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.)
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

    They are `image_size` pixels high and wide: `train` of them, and `val` in each other split.
    """
    colours = (uniforms(SPLIT_SEED, 0, torch.arange(num_classes), 3) * 95).byte()

    def noise(start: int, n: int) -> Images:
        labels = torch.arange(start, start + n) % num_classes
        generator = torch.Generator().manual_seed(SPLIT_SEED + start)
        shape = (n, image_size, image_size, 3)
        pixels = torch.randint(0, 160, shape, generator=generator, dtype=torch.uint8)
        return Images(pixels + colours[labels][:, None, None, :], labels)

    parts = noise(0, train), noise(train, val), noise(train + val, val)
    return Splits(tuple(f"class {i}" for i in range(num_classes)), *parts)


def published(name: str, root: str = "data") -> Splits:
    """Return one of torchvision's data sets, downloaded and verified the first time.

    A tenth of each training class is the validation split. The files lie below `root`, as
    torchvision lays them out; UserError if they are damaged, or can't be downloaded.
    """
    kind, place = getattr(datasets, name), located(root, must_exist=False)
    with alone_in(place):
        try:
            train, test = _both(kind, place)
        except (OSError, RuntimeError, AssertionError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split()) or "files are cut short"
            raise UserError(f"{name}: {reason}. {_by_hand(kind, place)}") from None
    images = _images(train)
    index, val = _stratified(np.arange(len(images)), images.labels.numpy(), 0.1)
    parts = [Images(images.pixels[part], images.labels[part]) for part in (index, val)]
    return Splits(tuple(map(str, train.classes)), *[*parts, _images(test)])


SOURCES: dict[str, Callable[..., Splits]] = {
    "digits": digits,
    "folder": folder,
    "mnist": partial(published, "MNIST"),
    "fashion_mnist": partial(published, "FashionMNIST"),
    "cifar10": partial(published, "CIFAR10"),
    "cifar100": partial(published, "CIFAR100"),
    "synthetic": synthetic,
}


def load(name: str, options: dict[str, Any] | None = None) -> Splits:
    """Return the splits of the source of that name; UserError if it has no such name or option."""
    if name not in SOURCES:
        raise UserError(f"data.source is '{name}', which is unknown. Known: {', '.join(SOURCES)}.")
    source, options = SOURCES[name], options or {}
    takes = inspect.signature(source)
    try:
        takes.bind(**options)
        return source(**options)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise UserError(
            f"data.options do not fit the source '{name}': {error}."
            f" It takes: {', '.join(takes.parameters) or 'none'}."
        ) from error


def _both(kind: Any, root: Path) -> list[Any]:
    """Return training and test set, downloaded if they are not there yet."""
    try:
        return [kind(str(root), train=part) for part in (True, False)]
    except RuntimeError:  # not there, or not what their checksums say
        print(f"{kind.__name__} is downloaded to {root}", flush=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without an answer; torchvision alone waits for ever
    try:
        return [kind(str(root), train=part, download=True) for part in (True, False)]
    finally:
        socket.setdefaulttimeout(before)


def _by_hand(kind: Any, root: Path) -> str:
    if hasattr(kind, "url"):
        files, address, place = kind.filename, kind.url, root
    else:
        files = ", ".join(name for name, _ in kind.resources)
        address, place = kind.mirrors[0], root / kind.__name__ / "raw"
    return f"Without a network, put {files} (from {address}) into {place}; first remove bad ones."


def _images(data: Any) -> Images:
    """Return a torchvision data set as RGB; grey images repeat their channel."""
    pixels = torch.as_tensor(data.data)
    if pixels.ndim == 3:
        pixels = pixels[..., None].repeat(1, 1, 1, 3)
    return Images(pixels, torch.as_tensor(data.targets, dtype=torch.int64))


def _stratified(index: np.ndarray, labels: np.ndarray, share: float) -> list[np.ndarray]:
    """Split an index in two, the second with that share of every class; both stay in order."""
    parts = train_test_split(index, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    return [np.sort(part) for part in parts]
