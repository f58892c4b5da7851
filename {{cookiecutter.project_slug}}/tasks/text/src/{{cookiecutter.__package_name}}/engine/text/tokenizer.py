"""Tokenizers: trained on the training texts, or loaded by name or from a folder.

A tokenizer works in threads of its own, which a forked process lacks: it would print a page of
warnings, or wait for ever. So a forked process works in one thread.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..artifacts import artifact
from ..errors import UserError
from ..hashing import sha256_of
from ..paths import resolve_path
from .hub import CONFIG, TOKENIZER, files_of
from .tokens import Tokens

PARALLELISM = "TOKENIZERS_PARALLELISM"  # read by the library whenever it could start threads
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
INSIDE = "##"  # before a token that does not begin a word
AT_ONCE = 1 << 12  # rows tokenized together
FILE = "tokenizer.json"
TRAINED = "trained"  # in place of a name
KEPT = "tokenizer"  # the folder among the artifacts of a run
CONFIG_FILE = "tokenizer_config.json"

os.environ.setdefault(PARALLELISM, "true")
os.register_at_fork(after_in_child=lambda: os.environ.update({PARALLELISM: "false"}))


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of the library `tokenizers`.

    `content` is its tokenizer.json. `special` are the special tokens by their role: pad, unk, cls,
    sep and mask, as far as it has them. `settings` are the tokenizer_config.json that transformers
    reads.
    """

    name: str
    content: str
    special: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The SHA-256 of tokenizer.json."""
        return sha256_of([self.content.encode()])

    @cached_property
    def backend(self) -> Any:
        """The tokenizers.Tokenizer."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.content)

    @property
    def vocabulary(self) -> int:
        """The number of token ids, added tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens by their role."""
        ids = {role: self.backend.token_to_id(token) for role, token in self.special.items()}
        return {role: number for role, number in ids.items() if number is not None}

    @property
    def padding_id(self) -> int:
        return self.special_ids["pad"]

    def encode(self, first: Sequence[str], second: Sequence[str] | None, max_length: int) -> Tokens:
        """Return the tokens of n texts or pairs; those longer than `max_length` are cut.

        Of a pair, the longer text is cut first, as transformers does.
        """
        rows = list(first) if second is None else list(zip(first, second, strict=True))
        parts = [self._encode(part, max_length) for part in _in_parts(rows)]
        tokens = [ids for part in parts for ids, _, _ in part]
        starts = [start for part in parts for _, start, _ in part]
        whole = [length for part in parts for _, _, length in part]
        lengths = np.array([len(ids) for ids in tokens], np.int32)
        return Tokens(
            np.fromiter(chain.from_iterable(tokens), np.int32),
            lengths,
            None if second is None else np.array(starts, np.int32),
            np.array(whole, np.int32),
        )

    def _encode(self, rows: list[Any], max_length: int) -> list[tuple[list[int], int, int]]:
        """Return each row's tokens, how many come before its second text, and its whole length."""
        encoded = self.backend.encode_batch_fast(rows)
        whole = [len(each) for each in encoded]
        long = [i for i, length in enumerate(whole) if length > max_length]
        if long:
            self.backend.enable_truncation(max_length)  # by default, the longest text first
            cut = self.backend.encode_batch_fast([rows[i] for i in long])
            self.backend.no_truncation()
            for i, each in zip(long, cut, strict=True):
                encoded[i] = each
        ids = [each.ids for each in encoded]
        starts = [_start(each.type_ids) for each in encoded]
        return list(zip(ids, starts, whole, strict=True))

    def files(self) -> dict[str, bytes]:
        """Return its files by name: transformers reads a folder with them as a tokenizer."""
        settings = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        return {FILE: self.content.encode(), CONFIG_FILE: settings.encode()}


def kept() -> TextTokenizer | None:
    """Return the tokenizer that a run kept if it resumes, is evaluated or served; else None."""
    file, config = (artifact(f"{KEPT}/{name}") for name in (FILE, CONFIG_FILE))
    return read(file.parent) if file is not None and config is not None else None


def read(folder: Path, name: str | None = None) -> TextTokenizer:
    """Return the tokenizer whose two files are in a folder, exactly as it was written."""
    settings = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    special = dict[str, str]()
    for role in SPECIAL:
        token = settings.get(f"{role}_token")
        if token is not None:
            special[role] = token["content"] if isinstance(token, dict) else token
    content = (folder / FILE).read_text("utf-8")
    return TextTokenizer(name or str(folder), content, special, settings)


def trained(texts: Sequence[str], vocabulary: int) -> TextTokenizer:
    """Return a WordPiece tokenizer with at most `vocabulary` tokens, trained on texts.

    It keeps case and accents. The same texts give the same tokenizer. (Wu et al., "Google's Neural
    Machine Translation System", 2016; the special tokens are those of BERT.) Raises UserError if
    the texts have more letters than that.
    """
    from tokenizers import processors

    special = list(SPECIAL.values())
    letters = _trained(texts, 0, special).get_vocab()
    if len(letters) > vocabulary:
        raise UserError(
            f"data.vocabulary is {vocabulary}, and the letters of the training texts already make"
            f" {len(letters)} tokens. Set it higher."
        )
    # The library numbers the letters inside of words in an order that differs between processes,
    # unless they are given. They are no special tokens afterwards.
    inside = sorted(letter for letter in letters if letter.startswith(INSIDE) and letter != INSIDE)
    backend = _trained(texts, vocabulary, [*special, *inside])
    cls, sep = SPECIAL["cls"], SPECIAL["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )
    content = json.loads(backend.to_str())
    added = content["added_tokens"]
    content["added_tokens"] = [token for token in added if token["content"] in special]
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {f"{role}_token": token for role, token in SPECIAL.items()}
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    return TextTokenizer(TRAINED, json.dumps(content, ensure_ascii=False), SPECIAL, settings)


def _trained(texts: Sequence[str], vocabulary: int, first: list[str]) -> Any:
    """Return a tokenizers.Tokenizer whose tokens are `first`, all letters, then parts of words."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    backend: Any = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))  # type: ignore[call-arg]
    backend.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    every_letter = sys.maxunicode
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=first,
        limit_alphabet=every_letter,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def loaded(name: str) -> TextTokenizer:
    """Return the tokenizer in a folder, or with a name on the hub, as transformers loads it.

    Raises UserError if there is none, or it has no token for padding.
    """
    from transformers import AutoTokenizer  # importing takes seconds

    here = resolve_path(name, must_exist=False)
    folder = here if here.is_dir() else files_of(name, (*TOKENIZER, *CONFIG), "data.tokenizer")
    try:
        found: Any = AutoTokenizer.from_pretrained(str(folder))
        backend = found.backend_tokenizer
    except Exception as error:  # of many kinds, as files are missing or damaged in many ways
        reason = " ".join(str(error).split()).removesuffix(".")
        if folder == here and not (folder / FILE).is_file():
            reason = f"it has no {FILE}"
        raise UserError(
            f"data.tokenizer is '{name}', which can't be loaded: {reason}. Expected a folder with"
            f" {FILE} and {CONFIG_FILE}, such as artifacts/tokenizer of a run."
        ) from None
    special = {role: getattr(found, f"{role}_token") for role in SPECIAL}
    if special["pad"] is None:
        raise UserError(
            f"data.tokenizer is '{name}', which has no token for padding. Choose another."
        )
    backend.no_padding()
    backend.no_truncation()
    with TemporaryDirectory() as saved:
        found.save_pretrained(saved)
        settings = json.loads((Path(saved) / CONFIG_FILE).read_text("utf-8"))
    known = {role: str(token) for role, token in special.items() if token is not None}
    return TextTokenizer(name, backend.to_str(), known, settings)


def _in_parts(rows: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]


def _start(types: list[int]) -> int:
    """Return the number of tokens before the first of type 1, of the second text."""
    return types.index(1) if 1 in types else len(types)
