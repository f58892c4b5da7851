"""Begin to use the GPU while the program still reads its data and builds its network.

A thread waits, without Python's lock, for the driver to set up the GPU for this process, and for
Triton's hash of its own library of some hundred MB, which torch.compile needs.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import torch


def use_soon(device: torch.device) -> Callable[[], None]:
    """Return at once, with a function that waits for the end: call it before the GPU computes.

    A kernel of this thread beside the main thread's `torch.cuda.empty_cache()` ended half of such
    starts with an illegal memory access (torch 2.11, H200, driver 580). If the GPU can't be used,
    nothing is said: training will say it.
    """
    thread = Thread(target=_use, args=(device,), daemon=True)
    thread.start()
    return thread.join


def _use(device: torch.device) -> None:
    with suppress(RuntimeError, AssertionError):
        torch.cuda.synchronize(device)
    with suppress(ImportError):  # without Triton, or with another version
        from triton.runtime.cache import triton_key

        triton_key()  # which keeps it
