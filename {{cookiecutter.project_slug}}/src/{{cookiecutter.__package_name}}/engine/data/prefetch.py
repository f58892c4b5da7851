"""Preparing batches while the device trains on earlier ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

AHEAD = 2  # batches prepared on the device in advance


def prefetch(items: Iterable, finish: Callable[[Any], Any], device: torch.device) -> Iterator[Any]:
    """Yield finish(item), a batch, for every item in order.

    For a GPU, a thread calls it ahead of time on a separate stream, so that reading and copying
    don't delay training. Its exceptions are raised here.
    """
    if device.type != "cuda":
        yield from map(finish, items)
        return
    iterator, stream = iter(items), torch.cuda.Stream(device, priority=-1)  # high priority
    stream.wait_stream(torch.cuda.current_stream(device))  # it computed the items

    def next_one() -> Any:
        with torch.cuda.stream(stream):
            batch = next(map(finish, iterator), None)
        stream.synchronize()  # only now may the memory that was copied from be reused
        return batch

    with ThreadPoolExecutor(1) as thread:
        ready = deque(thread.submit(next_one) for _ in range(AHEAD))
        while (batch := ready.popleft().result()) is not None:
            ready.append(thread.submit(next_one))
            for part in batch:
                if part is not None:
                    part.record_stream(torch.cuda.current_stream(device))
            yield batch
