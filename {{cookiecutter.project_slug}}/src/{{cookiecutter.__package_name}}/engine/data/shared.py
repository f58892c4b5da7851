"""Data that the processes of one host load once, and hold in its memory once.

The first process loads them and writes them to a file, which all processes map into memory. Once
all have mapped it, the file is removed; its content stays until the last of them ends.
"""

import os
import pickle
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ranks import is_launched, store

_number = count()  # of the calls, which all processes make in the same order


def once_per_host(load: Callable[[], Any]) -> Any:
    """Return what `load` returns in the first process of this host.

    If that can't be pickled or written to the folder for temporary files, every process loads.
    """
    local, processes = int(os.environ.get("LOCAL_RANK", 0)), _processes()
    if processes == 1:
        return load()
    key = f"shared/{os.environ['GROUP_RANK']}/{next(_number)}"
    if local:
        file = store().get(key).decode()
        if file == "failed":
            raise SystemExit(1)  # the first process says why
        loaded = _read(Path(file)) if file else load()
        store().set(f"{key}/{local}", b"")
        return loaded
    try:
        loaded = load()
    except BaseException:
        store().set(key, b"failed")
        raise
    written = _write(loaded)
    store().set(key, str(written or "").encode())
    if written is None:
        return loaded
    try:
        del loaded
        mapped = _read(written)
        store().wait([f"{key}/{other}" for other in range(1, processes)])
        return mapped
    finally:
        written.unlink()


def _processes() -> int:
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_launched() else 1


class _Pickler(pickle.Pickler):
    """Pickles arrays as tensors, because torch maps only tensors into memory."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray or value.dtype.hasobject or not value.size:
            return NotImplemented
        numbers = torch.from_numpy(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        return _as_array, (numbers, value.dtype, value.shape)


def _as_array(numbers: Tensor, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return numbers.numpy().view(dtype).reshape(shape)


def _write(loaded: Any) -> Path | None:
    """Write data to a new file and return it, or None if that is not possible."""
    handle, name = tempfile.mkstemp(prefix="shared-data-")
    os.close(handle)
    how: Any = SimpleNamespace(__name__="pickle", Pickler=_Pickler)
    try:
        torch.save(loaded, name, pickle_module=how)
    except (OSError, RuntimeError, pickle.PicklingError, AttributeError, TypeError):
        Path(name).unlink()
        return None
    return Path(name)


def _read(file: Path) -> Any:
    return torch.load(file, mmap=True, weights_only=False)
