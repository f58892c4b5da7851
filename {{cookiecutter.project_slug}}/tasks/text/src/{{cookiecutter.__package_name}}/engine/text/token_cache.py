"""A cache of tokens: one file per split, mapped into memory.

It is in the user's cache folder, named by all that the tokens depend on: the texts, the tokenizer
and the longest length. If it is deleted, damaged or can't be written, texts are tokenized again.
"""

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..hashing import sha256_of
from ..paths import cache_folder, exclusive_lock
from .splits import Texts
from .tokenizer import TextTokenizer
from .tokens import Tokens

VERSION = 1  # of the file: change it if the same texts should give other tokens
DIGEST = 8  # int32 numbers of a SHA-256, at the end of a file


def tokens_of(texts: Texts, tokenizer: TextTokenizer, max_length: int) -> Tokens:
    """Return the tokens of a split, without labels, mapped into memory."""
    folder = cache_folder() / "tokens"
    path = folder / f"{key_of(texts, tokenizer, max_length)}.npy"
    with exclusive_lock(folder) as writable:
        found = _read(path, texts)
        if found is not None:
            return found
        tokens = tokenizer.encode(texts.first, texts.second, max_length)
        if not writable:
            return tokens
        with suppress(OSError):  # the disk is full: do without the cache
            _write(path, tokens)
            return _read(path, texts) or tokens
        return tokens


def key_of(texts: Texts, tokenizer: TextTokenizer, max_length: int) -> str:
    """Return the SHA-256 of all that the tokens depend on."""
    settings = [VERSION, version("tokenizers"), tokenizer.digest, max_length, texts.n]
    parts = [repr(settings).encode()]
    for column in (texts.first, texts.second or ()):
        for text in column:
            content = text.encode()
            parts += [len(content).to_bytes(8, "little"), content]
    return sha256_of(parts)


def _write(path: Path, tokens: Tokens) -> None:
    """Write a file in one step: a reader sees all of it or nothing."""
    starts = np.zeros(tokens.n, np.int32) if tokens.starts is None else tokens.starts
    content = np.concatenate([tokens.lengths, starts, tokens.whole, tokens.tokens])
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.save(file, np.concatenate([content, _digest(content)]))
    unfinished.replace(path)


def _read(path: Path, texts: Texts) -> Tokens | None:
    """Return the tokens in a file, mapped into memory; None if it is missing or damaged."""
    try:
        content = np.asarray(np.load(path, mmap_mode="c"))
    except (OSError, ValueError, EOFError):
        return None
    content, digest = content[:-DIGEST], content[-DIGEST:]
    if content.dtype != np.int32 or not np.array_equal(_digest(content), digest):
        return None
    lengths, starts, whole, tokens = np.split(content, [texts.n, 2 * texts.n, 3 * texts.n])
    return Tokens(tokens, lengths, None if texts.second is None else starts, whole)


def _digest(content: np.ndarray) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(sha256_of([content.data])), np.int32)
