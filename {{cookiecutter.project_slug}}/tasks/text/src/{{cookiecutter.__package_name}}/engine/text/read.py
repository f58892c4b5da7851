"""Reading the texts that the service is sent, as evaluation would show them."""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..artifacts import artifact
from ..contract import Facts
from ..data.rows import TensorRows
from .batch import SEQUENCES, TextBatch
from .columns import FIRST, SECOND
from .names import find
from .tokenizer import FILE, KEPT, TextTokenizer
from .tokenizer import read as read_tokenizer

MAX_CHARACTERS = 1_000_000  # of one text: more take seconds to tokenize
MULTIPLE = 8  # the length of a batch without texts
SEVERAL = ("texts", "pairs")  # the keys of a list of requests
MASKED = (
    "learned to fill in masked tokens. Fine-tune its weights on labels, with --model.pretrained"
    " RUN/checkpoints/best.ckpt, and use that run"
)
TOKENIZING = threading.Lock()  # a tokenizer has one length to which it cuts, for all threads


class Text(NamedTuple):
    """A text, or a pair of texts."""

    first: str
    second: str | None


class Unreadable(Exception):
    """The request can't be shown to the network; the message is the reason."""


def several(body: Any, facts: Facts) -> list | None:
    """Return the requests in a body: a list, or {"texts": […]} or {"pairs": […]}; else None.

    If rows are pairs, a list of two texts is one of them.
    """
    if isinstance(body, dict) and len(body) == 1:
        (key,) = body
        return body[key] if key in SEVERAL and isinstance(body[key], list) else None
    if not isinstance(body, list):
        return None
    is_one = facts.extra["pair"] and [type(part) for part in body] == [str, str]
    return None if is_one else body


def read(
    requests: list, facts: Facts, truncate: bool = False
) -> tuple[TensorRows, dict[int, str], dict[int, dict]]:
    """Return texts as tokens, why the others can't be used, and which were cut.

    Args:
        requests: each a text as str or UTF-8 bytes; {"text": …}; a pair as {"first": …,
            "second": …} or as a list. Instead of these keys, the names of the columns that the run
            was trained on may be used, or those of columns.py.
        facts: the facts of the run's data.
        truncate: cut texts that are too long, as training did, instead of refusing them.
    """
    tokenizer, is_pair = _tokenizer(), facts.extra["pair"]
    longest, columns = facts.extra["max_length"], facts.extra.get("columns", [])
    texts, problems, notes = [], dict[int, str](), dict[int, dict]()
    for i, request in enumerate(requests):
        try:
            if facts.extra.get("objective") == "masked":
                raise Unreadable(f"can't be classified: this network {MASKED}")
            text = _checked(_text_of(request, columns), is_pair)
            length = _length(tokenizer, text, longest)
            if length > longest and not truncate:
                raise Unreadable(
                    f"has {length:,} tokens, and at most {longest:,} fit: shorten the text, or"
                    " start the service with --truncate"
                )
        except Unreadable as reason:
            problems[i] = str(reason)
            continue
        texts.append(text)
        if length > longest:
            notes[i] = {"truncated": True, "tokens": longest, "of_tokens": length}
    batch = _batch(tokenizer, texts, longest, is_pair)
    return TensorRows(batch, batch.lengths, SEQUENCES), problems, notes


def _text_of(request: Any, columns: Sequence[str]) -> Text:
    """Return the text or pair in a request. Raises Unreadable if there is none.

    `columns` are the names of the training table's columns of texts, one or two, if it had any.
    """
    if isinstance(request, bytes):
        return Text(_decoded(request), None)
    parts = request if isinstance(request, list) else [request]
    if isinstance(request, dict):
        usual = (*columns[:1], *FIRST), (*columns[1:], *SECOND)
        first, second = (_value(request, keys) for keys in usual)
        if first is None:
            keys = ", ".join(map(repr, list(request)[:6])) or "none"
            also = " and ".join(f'"{name}"' for name in columns if name not in (*FIRST, *SECOND))
            expected = f'{also and also + ", or "}"text", or "first" and "second"'
            raise Unreadable(f"has the keys {keys}; expected {expected}")
        parts = [first] if second is None else [first, second]
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts[:3])
        raise Unreadable(f"holds {kinds or 'nothing'}; expected a text, or a pair of texts")
    return Text(parts[0], parts[1] if len(parts) == 2 else None)


def _value(request: dict, keys: tuple[str, ...]) -> Any:
    """Return the value of the first of the keys that a request has, or None."""
    given = list(request)
    places = (find(key, given) for key in keys)
    return next((request[given[place]] for place in places if place is not None), None)


def _decoded(content: bytes) -> str:
    """Return the text of a body, without the end of a file's last line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {error.start:,} is 0x{content[error.start]:02x}"
        raise Unreadable(f"is not UTF-8: {found}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _checked(text: Text, is_pair: bool) -> Text:
    """Return the text if it can be tokenized. Raises Unreadable."""
    if is_pair and text.second is None:
        raise Unreadable(
            'is one text; this network was trained on pairs: send {"first": "…", "second": "…"}'
        )
    if not is_pair and text.second is not None:
        raise Unreadable('is a pair; this network was trained on single texts: send {"text": "…"}')
    for part, name in zip(text, ("the first text", "the second text"), strict=True):
        if part is not None and (problem := problem_of(part)):
            raise Unreadable(f"has a problem in {name}: it {problem}" if is_pair else problem)
    return text


def problem_of(part: str) -> str | None:
    """Return why a text can't be tokenized, or None."""
    if not part.strip():
        return "is empty"
    if len(part) > MAX_CHARACTERS:
        return f"has {len(part):,} characters; at most {MAX_CHARACTERS:,} are read"
    if any("\ud800" <= letter <= "\udfff" for letter in part):
        return "has halves of characters (surrogates), as broken JSON escapes give"
    return None


def _tokenizer() -> TextTokenizer | None:
    """Return the tokenizer that the run kept, or None if it was trained on bare tokens."""
    file = artifact(f"{KEPT}/{FILE}")
    return _loaded(file.parent) if file else None


@functools.cache
def _loaded(folder: Path) -> TextTokenizer:
    return read_tokenizer(folder)


def _length(tokenizer: TextTokenizer | None, text: Text, longest: int) -> int:
    """Return how many tokens all of a text has. Raises Unreadable if there is no tokenizer."""
    if tokenizer is None:
        raise Unreadable("can't be tokenized: this run was trained on tokens, without a tokenizer")
    second = None if text.second is None else [text.second]
    with TOKENIZING:
        return int(tokenizer.encode([text.first], second, longest).whole[0])


def _batch(
    tokenizer: TextTokenizer | None, texts: list[Text], longest: int, is_pair: bool
) -> TextBatch:
    """Return texts as one batch, padded to the shortest fixed length that fits them all."""
    if tokenizer is None or not texts:
        nothing = torch.zeros(0, MULTIPLE, dtype=torch.int32)
        segments = nothing.to(torch.uint8) if is_pair else None
        return TextBatch(nothing, segments, nothing[:, 0], None, torch.arange(0))
    second = [text.second or "" for text in texts] if is_pair else None
    with TOKENIZING:
        tokens = tokenizer.encode([text.first for text in texts], second, longest)
    return tokens.batch(tokenizer.padding_id)
