"""Begin to use the GPU early: while libraries are imported, data read and networks built.

Threads wait for it without Python's lock. main.py imports this before torch, whose import is one of
the things that go on meanwhile.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

from ..nvml import prefer_idle_gpus

if TYPE_CHECKING:
    import torch


def start_driver() -> None:
    """Begin to initialize CUDA's driver, with idle GPUs first, and return at once.

    This takes some tenths of a second. If torch does it, nothing else goes on meanwhile. Without a
    driver nothing happens.
    """
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # the driver reads both variables
    prefer_idle_gpus()
    Thread(target=_initialize, daemon=True).start()


def _initialize() -> None:
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuInit(0)  # torch tells of an error


def use_soon(device: "torch.device") -> Callable[[], None]:
    """Return at once, with a function that waits for the end: call it before the GPU computes.

    A thread sets up the GPU for this process, and computes Triton's hash of its own library of some
    hundred MB, which torch.compile needs. A kernel of this thread beside the main thread's
    `torch.cuda.empty_cache()` ended half of such starts with an illegal memory access (torch 2.11,
    H200, driver 580). If the GPU can't be used, nothing is said: training will say it.
    """
    thread = Thread(target=_use, args=(device,), daemon=True)
    thread.start()
    return thread.join


def _use(device: "torch.device") -> None:
    import torch

    with suppress(RuntimeError, AssertionError):
        torch.cuda.synchronize(device)
    with suppress(ImportError):  # without Triton, or with another version
        from triton.runtime.cache import triton_key

        triton_key()  # which keeps it
