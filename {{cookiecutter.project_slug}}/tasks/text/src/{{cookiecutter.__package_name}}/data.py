"""The data: the sources of texts, and the settings for turning them into tokens.

To add a source, write a function that returns TextSplits and add it to SOURCES. Each of its splits
is Texts: a list of texts, their labels, and the place that each comes from.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from babel import Locale

from .engine.data.sources import load_source
from .engine.text.glue import glue
from .engine.text.module import TextModule
from .engine.text.splits import Label, Texts, TextSplits
from .engine.text.table import table
from .engine.text.tokens import Tokens

LANGUAGES = (
    *("af", "ca", "cs", "da", "de", "en", "es", "et", "fi", "fr"),
    *("gl", "hr", "hu", "it", "nb", "nl", "pt", "sk", "sl", "sv"),
)
NAMES = ("languages", "territories", "scripts", "currencies")
NAMES_PER_TEXT = 8
TEXTS_PER_LANGUAGE = (1500, 100, 100)  # to train, to validate, to test


def languages() -> TextSplits:
    """Return texts of eight names each, in 20 languages: tell which language they are in.

    They are the names of languages, countries, scripts and currencies in Unicode's CLDR, which
    Babel 2.18 contains (Unicode License v3). What one split names, no other split names in any
    language. A naive Bayes of letters and pairs of letters reaches 90% accuracy.
    """
    random = np.random.default_rng(0)
    names = {language: names_in(language) for language in LANGUAGES}
    splits = []
    for part, count in enumerate(TEXTS_PER_LANGUAGE):
        texts, labels = list[str](), list[Label]()
        for _ in range(count):  # languages in turn: the pictures show the first rows
            for language in LANGUAGES:
                chosen = random.permutation(names[language][part])[:NAMES_PER_TEXT]
                texts.append("; ".join(chosen))
                labels.append(language)
        places = [f"languages, text {number}" for number in range(len(texts))]
        splits.append(Texts(texts, None, labels, places))
    return TextSplits(*splits, classes=LANGUAGES)


def names_in(language: str) -> list[np.ndarray]:
    """Return a language's names for training, validation and test: 60%, 20% and 20% of them."""
    splits_of = dict[str, set[int]]()
    for kind in NAMES:
        for code, name in getattr(Locale(language), kind).items():
            digest = hashlib.sha256(f"{kind}:{code}".encode()).digest()
            splits_of.setdefault(name, set()).add((0, 0, 0, 1, 2)[digest[0] % 5])
    parts = ({0}, {1}, {2})  # a name of several things may be in several splits: leave it out
    return [np.array(sorted(name for name in splits_of if splits_of[name] == p)) for p in parts]


def synthetic(
    rows: int = 3668,
    vocabulary: int = 30522,
    mean: int = 53,
    spread: int = 16,
    shortest: int = 16,
    longest: int = 103,
) -> TextSplits:
    """Return random tokens with random labels of two classes, for speed measurements.

    The lengths are normally distributed, by default like those of MRPC's pairs of sentences.
    """

    def noise(n: int, seed: int) -> Tokens:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randn(n, generator=generator) * spread + mean
        lengths = lengths.clamp(shortest, longest).int()
        tokens = torch.randint(
            2, vocabulary, (int(lengths.sum()),), generator=generator, dtype=torch.int32
        )
        labels = torch.randint(2, (n,), generator=generator)
        return Tokens(tokens.numpy(), lengths.numpy(), None, lengths.numpy(), labels)

    parts = noise(rows, 0), noise(rows // 9, 1), noise(rows // 9, 2)
    return TextSplits(*parts, classes=("0", "1"), vocabulary=vocabulary)


SOURCES: dict[str, Callable[..., TextSplits]] = {
    "languages": languages,
    "table": table,
    "glue": glue,
    "mrpc": partial(glue, "mrpc"),
    "synthetic": synthetic,
}


class TextData(TextModule):
    """The texts of one source.

    Args:
        source: languages, table, glue, mrpc or synthetic.
        options: keyword arguments of that source, such as path for table.
        batch_size: training texts per device and forward pass, the micro-batch.
        eval_batch_size: texts per step and device in validation, test and prediction.
        max_length: the most tokens of a text, special ones included; longer texts are cut.
        tokenizer: the name of a tokenizer, such as bert-base-uncased, or its folder. If unset, one
            is trained on the training texts.
        vocabulary: the most tokens of a tokenizer that is trained.
        masking: share of the tokens that are masked, to be predicted; if 0, labels are.
        sampler: balanced draws each class as often as another, with replacement; unset: each text
            once in an epoch.
    """

    # A resume compares the content of the texts instead.
    may_change: ClassVar[frozenset[str]] = TextModule.may_change | {"source", "options"}

    def __init__(
        self,
        source: str = "languages",
        options: dict[str, Any] | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        max_length: int = 128,
        tokenizer: str | None = None,
        vocabulary: int = 4000,
        masking: float = 0.0,
        sampler: Literal["balanced"] | None = None,
    ) -> None:
        texts = load_source(SOURCES, source, options or {})
        sizes = batch_size, eval_batch_size, max_length
        super().__init__(texts, source, *sizes, tokenizer, vocabulary, masking, sampler)
