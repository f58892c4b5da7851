"""The private names of torch that the loader of workers uses."""

from typing import Any

import torch
from torch.utils.data import DataLoader


def shared_storage(size: int) -> torch.UntypedStorage:
    """Return memory of `size` bytes that forked processes share.

    share_memory_() would first make as much that is not shared, and copy it. It can go when torch
    has a public way to ask for shared memory.
    """
    return torch.UntypedStorage._new_shared(size)


def end_workers(loader: DataLoader) -> None:
    """End a loader's workers: where Python collects them, torch waits 5 s for each.

    It can go when pytorch's issue 81794 is fixed.
    """
    workers: Any = loader._iterator
    loader._iterator = None
    if workers is not None:
        workers._shutdown_workers()
