"""Begin to use the GPU while the program still reads its data and builds its network.

The first use of a GPU takes a second: the driver sets it up for this process, and cuBLAS loads its
kernels. A thread does that beside the work of the CPU, which leaves Python's lock there.
"""

from contextlib import suppress
from threading import Thread

import torch


def use_soon(device: torch.device) -> None:
    """Return at once. If the GPU can't be used, nothing is said: training will say it."""
    Thread(target=_use, args=(device,), daemon=True).start()


def _use(device: torch.device) -> None:
    with suppress(RuntimeError, AssertionError):
        matrix = torch.zeros(8, 8, device=device)
        torch.mm(matrix, matrix)
        torch.cuda.synchronize(device)
