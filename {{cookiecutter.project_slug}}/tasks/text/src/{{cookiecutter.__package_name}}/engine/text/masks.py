"""Masked-language modelling: which tokens are hidden, as a function of random numbers alone.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019, section 3.1: of
the chosen tokens, 80% become the mask, 10% a random token, and 10% stay as they are. All of them
are to be predicted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import Uniforms
from ..data.order import uniforms as uniforms_of
from .batch import IGNORED, TextBatch

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens
PER_TOKEN = 2  # random numbers: how a token is treated, and which one replaces it
EVALUATION_SEED = 0  # not the run's seed, so that all runs are validated on the same masks


@dataclass(frozen=True)
class Masks:
    """Masks a share of the tokens.

    Args:
        share: share of the tokens that are to be predicted.
        mask: the id of the mask.
        special: the ids of the special tokens, which are never chosen.
        vocabulary: the number of token ids, of which random ones are drawn.
    """

    share: float
    mask: int
    special: tuple[int, ...]
    vocabulary: int

    def __call__(self, batch: TextBatch, uniforms: Uniforms) -> TextBatch:
        """Return the batch with masked tokens and their targets.

        A token's random numbers depend on its row and its position, not on the batch's length.
        """
        n, length = batch.tokens.shape
        how, which = uniforms(PER_TOKEN * length).view(n, length, PER_TOKEN).unbind(2)
        tokens = batch.tokens
        chosen = (how < self.share) & ~_is_any(tokens, self.special)
        random = (which * self.vocabulary).to(tokens.dtype)
        masked = torch.where(how < self.share * MASKED, self.mask, random)
        changed = chosen & (how < self.share * (MASKED + RANDOM))
        targets = torch.where(chosen, tokens.long(), IGNORED)
        return batch._replace(tokens=tokens.where(~changed, masked), targets=targets)

    def fixed(self, batch: TextBatch) -> TextBatch:
        """Return a split for evaluation, masked in the same way in each epoch and run."""
        row = batch.row
        return self(batch, lambda k: uniforms_of(EVALUATION_SEED, 0, row, k))


def _is_any(tokens: Tensor, ids: Iterable[int]) -> Tensor:
    """Return which tokens have one of the ids. (torch.isin would copy them from the host.)"""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for number in ids:
        found |= tokens == number
    return found
