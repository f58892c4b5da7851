"""Texts as a person reads them, from the tokens that a network reads."""

from typing import Any

from .batch import TextBatch

BETWEEN = " | "  # the two texts of a pair


def tokens_of(batch: TextBatch, tokenizer: Any) -> list[list[str]]:
    """Return the tokens of each row by their names, special ones too; without a tokenizer, ids."""
    rows = [row[:n].tolist() for row, n in zip(batch.tokens, batch.lengths, strict=True)]
    name = str if tokenizer is None else tokenizer.backend.id_to_token
    return [[name(token) for token in row] for row in rows]


def texts_of(batch: TextBatch, tokenizer: Any) -> list[str]:
    """Return the text of each row, without special tokens; of a pair, both texts in one line.

    `tokenizer` is a TextTokenizer. A text that was cut is cut here, too.
    """
    texts = []
    for row, length in enumerate(batch.lengths.tolist()):
        tokens = batch.tokens[row, :length]
        parts = [tokens]
        if batch.segments is not None:
            segments = batch.segments[row, :length]
            parts = [tokens[segments == number] for number in (0, 1)]
        texts.append(BETWEEN.join(tokenizer.backend.decode(part.tolist()) for part in parts))
    return texts
