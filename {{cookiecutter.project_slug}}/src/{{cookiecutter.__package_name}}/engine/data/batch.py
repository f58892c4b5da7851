"""What a network is given, and how batches are made ready while the device trains on others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

AHEAD = 2  # batches that lie ready on the device
PADDING_LABEL = -100  # cross_entropy's ignore_index: an image with this label counts for nothing


class Batch(NamedTuple):
    """What a network is given.

    `images` uint8 (n, 3, height, width); `labels` int64 (n,), PADDING_LABEL where the image only
    fills up the batch; `indices` int64 (n,), the images' places in their split. Where an image is
    mixed with another, `others` int64 (n,) are its labels and `shares` float32 (n,) its own part.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    others: Tensor | None = None
    shares: Tensor | None = None


def ahead(items: Iterable, finish: Callable[[Any], Batch], device: torch.device) -> Iterator[Batch]:
    """Yield finish(item) of every item, in order.

    For a GPU a thread does it ahead of time, on a stream of its own, so that neither reading nor
    copying holds up training. What it raises is raised here.
    """
    if device.type != "cuda":
        yield from map(finish, items)
        return
    iterator, stream = iter(items), torch.cuda.Stream(device, priority=-1)  # before training
    stream.wait_stream(torch.cuda.current_stream(device))  # which has made what is asked for

    def next_one() -> Batch | None:
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
