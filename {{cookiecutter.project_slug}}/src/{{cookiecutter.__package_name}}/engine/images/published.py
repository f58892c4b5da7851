"""torchvision's data sets, downloaded and verified once."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..paths import exclusive_lock, resolve_path
from .batch import in_memory
from .splits import ImageSplits

SPLIT_SEED = 0  # not the run's seed, so that all runs are validated on the same images


def published(name: str, root: str = "data") -> ImageSplits:
    """Return one of torchvision's data sets, downloaded and verified the first time.

    The validation split is a tenth of each training class. The files are below `root`, in
    torchvision's layout. Raises UserError if they are damaged, or can't be downloaded.
    """
    from torchvision import datasets

    kind, place = getattr(datasets, name), resolve_path(root, must_exist=False)
    with exclusive_lock(place):
        try:
            train, test = _both(kind, place)
        except (OSError, RuntimeError, AssertionError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split()) or "files are truncated"
            raise UserError(f"{name}: {reason}. {_by_hand(kind, place)}") from None
    pixels, labels = _pixels(train)
    index, val = stratified(np.arange(len(labels)), labels.numpy(), 0.1)
    train_part, val_part = (in_memory(pixels[part], labels[part]) for part in (index, val))
    classes = tuple(map(str, train.classes))
    return ImageSplits(train_part, val_part, in_memory(*_pixels(test)), classes=classes)


def stratified(index: np.ndarray, labels: np.ndarray, share: float) -> list[np.ndarray]:
    """Split an index in two; the second part gets `share` of every class. Both are sorted."""
    from sklearn.model_selection import train_test_split  # importing takes half a second

    parts = train_test_split(index, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    return [np.sort(part) for part in parts]


def _both(kind: Any, root: Path) -> list[Any]:
    """Return the training and test set, downloaded if they are missing."""
    try:
        return [kind(str(root), train=part) for part in (True, False)]
    except RuntimeError:  # missing, or the checksums differ
        print(f"Downloading {kind.__name__} to {root}", flush=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without an answer; torchvision sets no limit
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
    return f"By hand: delete damaged files in {place}, then put {files} there, from {address}."


def _pixels(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a torchvision data set as RGB, uint8 (n, h, w, 3), and its labels, int64 (n,)."""
    pixels = torch.as_tensor(data.data)
    if pixels.ndim == 3:  # grey images repeat their channel
        pixels = pixels[..., None].repeat(1, 1, 1, 3)
    return pixels, torch.as_tensor(data.targets, dtype=torch.int64)
