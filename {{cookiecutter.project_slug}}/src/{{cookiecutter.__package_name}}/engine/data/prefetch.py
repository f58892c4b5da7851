"""Batches that are made ready while the device trains on others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

AHEAD = 2  # batches that are ready on the device


def prefetch(items: Iterable, finish: Callable[[Any], Any], device: torch.device) -> Iterator[Any]:
    """Yield finish(item), a batch, of every item, in order.

    For a GPU a thread does it ahead of time, on a stream of its own, so that neither reading nor
    copying holds up training. What it raises is raised here.
    """
    if device.type != "cuda":
        yield from map(finish, items)
        return
    iterator, stream = iter(items), torch.cuda.Stream(device, priority=-1)  # before training
    stream.wait_stream(torch.cuda.current_stream(device))  # which has made what is asked for

    def next_one() -> Any:
        with torch.cuda.stream(stream):
            batch = next(map(finish, iterator), None)
        stream.synchronize()  # what the host or another stream still holds may be let go
        return batch

    with ThreadPoolExecutor(1) as thread:
        ready = deque(thread.submit(next_one) for _ in range(AHEAD))
        while (batch := ready.popleft().result()) is not None:
            ready.append(thread.submit(next_one))
            for part in batch:
                if part is not None:
                    part.record_stream(torch.cuda.current_stream(device))
            yield batch
