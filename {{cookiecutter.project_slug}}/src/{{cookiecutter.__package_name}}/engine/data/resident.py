"""The loader for rows in memory: one gather makes several batches.

Small data sets are kept in the device's memory, which needs no workers and no copies from the host.
50,000 images of 32 by 32 pixels take 154 MB there. Larger data sets stay in host memory, or in a
file mapped into it, and batches are copied ahead of time. Both give the same bits.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..contract import Rows, Uniforms
from .order import EpochPlan
from .prefetch import prefetch
from .rows import TensorRows

AT_ONCE = 32 * 2**20  # bytes augmented together, so that launches are few

Augment = Callable[[Any, Uniforms], Any]


class ResidentLoader:
    """Batches of rows that are in the device's memory or, if `mapped`, in the host's.

    Training batches are augmented with random numbers from the plan's seed.
    """

    def __init__(
        self,
        rows: Rows,
        plan: EpochPlan,
        device: torch.device,
        mapped: bool = False,
        augment: Augment | None = None,
    ) -> None:
        self.plan, self.device, self.augment = plan, device, augment
        if isinstance(rows, TensorRows):
            rows = rows.first(plan.n) if mapped else rows.first(plan.n).to(device)
        self.rows, self.copies = rows, mapped or not isinstance(rows, TensorRows)

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def nbytes_on_device(self) -> int:
        return 0 if self.copies else getattr(self.rows, "nbytes", 0)

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self.plan.position() if self.plan.position else (0, 0)
        size, at_once = self.plan.shard.batch_size, self._batches_at_once()
        on_host = self.copies or self.plan.lengths is not None  # else lengths wait for the device
        indices = self.plan.indices(epoch, "cpu" if on_host else self.device)[first:]
        lengths = self.plan.lengths_of(indices) if on_host else [None] * len(indices)
        indices = indices if self.copies else indices.to(self.device)
        starts = range(0, len(indices), at_once)
        parts = [(indices[i : i + at_once].flatten(), lengths[i]) for i in starts]
        finish = partial(self._batches, epoch)
        made = prefetch(parts, finish, self.device) if self.copies else map(finish, parts)
        for batches in made:
            count = len(batches.row) // size
            columns = [[None] * count if part is None else part.split(size) for part in batches]
            yield from map(type(batches)._make, zip(*columns, strict=True))

    def _batches_at_once(self) -> int:
        if self.plan.lengths is not None or not isinstance(self.rows, TensorRows):
            return 1
        return max(AT_ONCE * self.rows.n // (self.rows.nbytes * self.plan.shard.batch_size), 1)

    def of_each_length(self) -> list[Any]:
        """Return a batch of each length that batches have, cut or padded, to prepare for them."""
        if not self.plan.fixed:
            return []
        row = self.plan.indices(0)[0]
        row = row if self.copies else row.to(self.device)
        return [self._batches(0, (row, length)) for length in self.plan.fixed]

    def _batches(self, epoch: int, part: tuple[Tensor, int | None]) -> Any:
        """Return one or several batches as one, on the device; rows are -1 for padding."""
        row, length = part
        index, training = row.clamp(min=0), self.plan.position is not None
        uniforms = self.plan.uniforms(epoch, index) if training else None
        batch: Any = self.rows.take(self.plan.rows_of(index), length, uniforms)._replace(row=row)
        if self.copies:
            batch = batch._make(map(self._to_device, batch))
        if not training:
            return batch
        index, batch = batch.row, batch._replace(row=self.plan.rows_of(batch.row))
        if self.augment is None:
            return batch
        return self.augment(batch, self.plan.uniforms(epoch, index, skip=self.rows.uniforms))

    def _to_device(self, part: Tensor | None) -> Tensor | None:
        if part is None or self.device.type == "cpu":
            return part
        part = part.pin_memory() if self.device.type == "cuda" else part
        return part.to(self.device, non_blocking=True)
