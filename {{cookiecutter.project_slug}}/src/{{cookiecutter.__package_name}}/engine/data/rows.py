"""Rows of a split as tensors in memory, and functions on the rows of any split."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..contract import Batch, Facts, Splits, Uniforms
from ..hashing import sha256_of

ROWS_AT_ONCE = 1024  # rows hashed together; digests depend on it


class TensorRows:
    """Rows that are tensors, in host memory or on a device.

    Args:
        batch: a batch of all n rows; the values of its field `row` are not used.
        lengths: int32 (n,) if rows differ in length.
        sequences: the fields (n, longest, …) that are cut to the length of a batch.
    """

    in_memory = True
    uniforms = 0

    def __init__(
        self, batch: Any, lengths: Tensor | None = None, sequences: Sequence[str] = ()
    ) -> None:
        self.batch, self.lengths, self.sequences = batch, lengths, tuple(sequences)
        self.n = len(batch.row)

    @property
    def device(self) -> torch.device:
        return self.batch.row.device

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._fields().values())

    def to(self, device: torch.device) -> "TensorRows":
        """Return a copy of the rows on a device."""
        moved = {name: part.to(device) for name, part in self._fields().items()}
        moved["row"] = self.batch.row.to(device)
        return TensorRows(self.batch._replace(**moved), self.lengths, self.sequences)

    def first(self, n: int) -> "TensorRows":
        """Return the first n rows."""
        fields = {name: part[:n] for name, part in self._fields().items()}
        fields["row"] = self.batch.row[:n]
        lengths = None if self.lengths is None else self.lengths[:n]
        return TensorRows(self.batch._replace(**fields), lengths, self.sequences)

    def take(self, index: Tensor, length: int | None, uniforms: Uniforms | None) -> Batch:
        """Return the rows at `index`, int64 (n,) on the same device, in the same memory layout."""
        taken = {}
        for name, part in self._fields().items():
            cut = part[:, :length] if length is not None and name in self.sequences else part
            taken[name] = _gather(cut, index)
        return self.batch._replace(**taken, row=index)

    def _fields(self) -> dict[str, Tensor]:
        """Return the fields that are tensors, without `row`."""
        fields = self.batch._asdict().items()
        return {name: part for name, part in fields if part is not None and name != "row"}


def as_rows(split: Any) -> Any:
    """Return a split as Rows; a batch of all its rows is wrapped in TensorRows."""
    return split if hasattr(split, "take") else TensorRows(split)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the rows of several batches; shorter rows are padded with 0."""
    if parts[0].ndim > 1:
        longest = max(part.shape[1] for part in parts)
        parts = [to_length(part, longest) for part in parts]
    return torch.cat(tuple(parts))


def to_length(part: Tensor, length: int) -> Tensor:
    """Return a tensor (n, length, …), padded with 0 if `part` was shorter."""
    missing = length - part.shape[1]
    if not missing:
        return part
    return torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], 1)


def with_size(facts: Facts, splits: Splits) -> Facts:
    """Return the facts with `nbytes` set if all rows are in memory."""
    rows = [
        as_rows(split) for split in (splits.train, splits.val, splits.test) if split is not None
    ]
    in_memory = all(part.in_memory for part in rows)
    return replace(facts, nbytes=sum(part.nbytes for part in rows) if in_memory else None)


def digest(splits: Splits) -> str:
    """Return the SHA-256 of the content of all splits. It changes whenever the data do."""
    return sha256_of(_content(splits))


def _content(splits: Splits) -> Iterator[bytes | memoryview]:
    for name in ("train", "val", "test"):
        split = getattr(splits, name)
        if split is None:
            continue
        rows = as_rows(split)
        for start in range(0, rows.n, ROWS_AT_ONCE):
            index = torch.arange(start, min(start + ROWS_AT_ONCE, rows.n))
            for field, part in rows.take(index, None, None)._asdict().items():
                if part is not None:
                    yield f"{name} {field} {part.dtype} {tuple(part.shape)}".encode()
                    yield part.contiguous().view(torch.uint8).numpy().data


def _gather(part: Tensor, index: Tensor) -> Tensor:
    """Return part[index] in the memory layout of `part` (channels last for images)."""
    order = sorted(range(part.ndim), key=part.stride, reverse=True)
    if order == sorted(order) or order[0] != 0:
        return part[index]
    back = sorted(range(part.ndim), key=order.__getitem__)
    return part.permute(order)[index].permute(back)
