"""The private names of torch that the streaming loader uses."""

from typing import Any

import torch
from torch.utils.data import DataLoader


def shared_storage(size: int) -> torch.UntypedStorage:
    """Return memory of `size` bytes that forked processes share.

    share_memory_() would first allocate as much private memory and copy it. This function can go
    when torch has a public way to allocate shared memory.
    """
    return torch.UntypedStorage._new_shared(size)


def end_workers(loader: DataLoader) -> None:
    """Stop a loader's workers. If Python's garbage collection stops them, torch waits 5 s for each.

    This function can go when pytorch's issue 81794 is fixed.
    """
    workers: Any = loader._iterator
    loader._iterator = None
    if workers is not None:
        workers._shutdown_workers()
