"""The batch of a text network.

In all files of this folder: n rows, each a text or a pair of texts, and `length` tokens a row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # the target of a token that is not to be predicted
SEQUENCES = ("tokens", "segments", "targets")  # the fields that are cut to a batch's length


class TextBatch(NamedTuple):
    """Texts as tokens, with their labels.

    `tokens` is int32 (n, length), with the padding's id after a row's end. `segments` is uint8
    (n, length), 0 for the first text and 1 for the second, or None if a row is a single text.
    `lengths` is int32 (n,), the tokens of each row. `labels` is int64 (n,) for classes, float32
    (n,) for numbers, or None. `row` is int64 (n,), the text's index in its split, or -1 for
    padding: a copy of row 0. If tokens are masked, `targets` is int64 (n, length): the token that
    was there, IGNORED where none is masked.
    """

    tokens: Tensor
    segments: Tensor | None
    lengths: Tensor
    labels: Tensor | None
    row: Tensor
    targets: Tensor | None = None


def attention_mask(batch: TextBatch) -> Tensor:
    """Return which tokens are no padding: bool (n, length)."""
    positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    return positions < batch.lengths[:, None]
