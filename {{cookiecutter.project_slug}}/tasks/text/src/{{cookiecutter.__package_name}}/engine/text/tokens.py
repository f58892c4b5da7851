"""Texts as tokens: in arrays without padding, and padded as one batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.order import fixed_lengths
from ..errors import UserError
from .batch import TextBatch


@dataclass(frozen=True)
class Tokens:
    """The tokens of n rows, one after the other.

    Args:
        tokens: int32 (total,).
        lengths: int32 (n,), the tokens of each row, special ones included.
        starts: int32 (n,), the tokens of each row before its second text; None for single texts.
        whole: int32 (n,), the length that each row would have if it were not cut.
        labels: int64 (n,) for classes or float32 (n,) for numbers; None if there are none.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray | None
    whole: np.ndarray
    labels: Tensor | None = None

    @property
    def n(self) -> int:
        return len(self.lengths)

    def check(self, classes: int, vocabulary: int | None) -> None:
        """Raise UserError if a token or a class is one that the network would not have.

        On a GPU, both would end as a device-side assert.
        """
        numbers = {"the token": (self.tokens, vocabulary)}
        if classes and self.labels is not None:
            numbers["the class"] = (self.labels.numpy(), classes)
        for what, (found, count) in numbers.items():
            for number in (found.min(), found.max()):
                if count is not None and not 0 <= number < count:
                    raise UserError(
                        f"The source returned {what} {number}; expected 0 to {count - 1}."
                    )

    def batch(self, padding: int) -> TextBatch:
        """Return all rows as one batch, padded with the id `padding` to the longest fixed length.

        The engine cuts its batches from it.
        """
        lengths = torch.from_numpy(np.array(self.lengths, np.int32))
        width = fixed_lengths(lengths)[-1]
        positions = np.arange(width)
        real = positions < self.lengths[:, None]
        tokens = np.full((self.n, width), padding, np.int32)
        tokens[real] = self.tokens
        segments = None
        if self.starts is not None:
            second = (positions >= self.starts[:, None]) & real
            segments = torch.from_numpy(second.astype(np.uint8))
        row = torch.arange(self.n)
        return TextBatch(torch.from_numpy(tokens), segments, lengths, self.labels, row)
