"""The base class of text data: texts become tokens, and the facts in a run's record."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..contract import Facts, Splits, Uniforms
from ..data.classes import Sampler, check_sampler, class_counts, remarks_on, sample_weights
from ..data.module import Data, Loader, at_least
from ..data.rows import TensorRows, digest
from ..data.shared import once_per_host
from ..errors import UserError
from ..plurals import counted
from ..ranks import is_rank_zero
from .batch import SEQUENCES, TextBatch
from .encoders import check_max_length
from .masks import Masks
from .splits import Texts, TextSplits
from .token_cache import tokens_of
from .tokenizer import KEPT, TRAINED, TextTokenizer, kept, loaded, trained
from .tokens import Tokens

MULTIPLE = 8  # batches are padded to multiples of it
UNNAMED_IDS = {"pad": 0, "mask": 1}  # of Tokens, which have no tokenizer
NAMES = {"train": "training", "val": "validation", "test": "test"}


class _Read(NamedTuple):
    """What is made of a source once per host. `parts` are the batches of the splits by name."""

    parts: dict[str, TextBatch]
    tokenizer: TextTokenizer | None
    vocabulary: int
    remarks: tuple[str, ...]


class TextModule(Data):
    """The texts of a source, as tokens.

    Args:
        source: the splits that a source in data.py returned.
        name: the source's name in the run's record.
        batch_size: training texts that one device computes at once: the micro-batch.
        eval_batch_size: texts per step and device in validation, test and prediction.
        max_length: the most tokens of a text, special ones included; longer texts are cut.
        tokenizer: the name or folder of a tokenizer; None to train one on the training texts.
        vocabulary: the most tokens of a tokenizer that is trained.
        masking: share of the tokens that are masked; 0 for labels instead of masked tokens.
        sampler: balanced draws each class as often as another, with replacement.
    """

    def __init__(
        self,
        source: TextSplits,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        max_length: int,
        tokenizer: str | None,
        vocabulary: int,
        masking: float,
        sampler: Sampler = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        at_least(MULTIPLE, max_length=max_length)
        if max_length % MULTIPLE:
            raise UserError(
                f"data.max_length is {max_length}; expected a multiple of {MULTIPLE}, to which"
                " batches are padded."
            )
        if not 0 <= masking < 1:
            raise UserError(f"data.masking is {masking}; expected a share, 0 or above, below 1.")
        if not masking and source.train.labels is None:
            advice = (
                "The texts have no labels. Name their column with --data.options.label, or learn to"
                " fill in masked words, without labels: --data.masking 0.15."
            )
            raise UserError("\n".join([advice, *source.remarks]))
        read = once_per_host(lambda: _read(source, max_length, tokenizer, vocabulary))
        self.classes, self.tokenizer, self._test = source.classes, read.tokenizer, source.test
        self.max_length, self.masking = max_length, masking
        self.vocab_size = read.vocabulary
        self.metrics = () if masking else source.metrics
        self.masks = self._masks() if masking else None
        parts = {split: self._masked_rows(split, batch) for split, batch in read.parts.items()}
        self.splits = Splits(parts["train"], parts["val"], parts.get("test"))
        check_sampler(sampler, self.objective)
        labels = read.parts["train"].labels
        self.train_numbers = labels if self.objective == "numbers" else None
        self.class_counts: dict[str, int] | None = None
        if self.objective == "classes" and labels is not None:
            self.class_counts = class_counts(labels, self.classes)
            self.sample_weights = sample_weights(sampler, labels)
        self._facts = self._described(name, read, source.columns)

    @property
    def objective(self) -> Literal["classes", "numbers", "masked"]:
        """What is learned: classes, numbers, or the tokens that were masked."""
        if self.masking:
            return "masked"
        return "classes" if self.classes else "numbers"

    @property
    def num_classes(self) -> int:
        """The number of outputs: the classes, 1 for numbers, or the tokens that masks hide."""
        if self.objective == "masked":
            return self.vocab_size
        return len(self.classes) or 1

    @property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens by their role, such as pad and mask."""
        return UNNAMED_IDS if self.tokenizer is None else self.tokenizer.special_ids

    @property
    def padding_id(self) -> int:
        return self.special_ids["pad"]

    def facts(self) -> Facts:
        return self._facts

    def setup(self, stage: str) -> None:
        """Raise UserError if the network has fewer positions than a text may have tokens."""
        if self.trainer is not None:
            (longest,) = self._facts.shapes["tokens"]
            check_max_length(self.trainer.lightning_module, self.max_length, longest)

    def train_dataloader(self) -> Loader:
        """Return the loader of the training texts. Prints how much of their batches is padding."""
        loader = super().train_dataloader()
        *few, most = map(str, loader.plan.fixed)
        lengths = f"{', '.join(few)} or {most}" if few else most
        share = loader.plan.padding()
        if is_rank_zero():
            print(f"texts are padded to {lengths} tokens: {share:.1%} is padding\n", flush=True)
        return loader

    def artifacts(self) -> dict[str, Path | bytes]:
        """Return the tokenizer's files: `--data.tokenizer RUN/artifacts/tokenizer` loads them."""
        if self.tokenizer is None:
            return {}
        return {f"{KEPT}/{name}": content for name, content in self.tokenizer.files().items()}

    def test_columns(self) -> dict[str, list[str]]:
        """Return where each test text is from, and the text."""
        if not isinstance(self._test, Texts):
            return {}
        columns = {"place": self._test.places, "text": self._test.first}
        return columns | ({"second": self._test.second} if self._test.second else {})

    def augment(self, batch: TextBatch, uniforms: Uniforms) -> TextBatch:
        """Return training texts, with masked tokens if these are to be predicted."""
        return batch if self.masks is None else self.masks(batch, uniforms)

    def _masks(self) -> Masks:
        ids = self.special_ids
        if "mask" not in ids:
            raise UserError(
                f"data.masking is {self.masking}, but the tokenizer has no token for masks. Choose"
                " another data.tokenizer, or set data.masking to 0."
            )
        return Masks(self.masking, ids["mask"], tuple(ids.values()), self.vocab_size)

    def _masked_rows(self, split: str, batch: TextBatch) -> TensorRows:
        """Return a split as rows. Those for evaluation are masked now, once and for all."""
        if self.masks is not None:
            batch = batch._replace(labels=None)
            batch = batch if split == "train" else self.masks.fixed(batch)
        return TensorRows(batch, batch.lengths, SEQUENCES)

    def _described(self, name: str, read: _Read, columns: tuple[str, ...]) -> Facts:
        """Return the facts. The service reads `extra` to tokenize as training did."""
        extra: dict[str, Any] = {
            "objective": self.objective,
            "max_length": self.max_length,
            "pair": self.splits.train.batch.segments is not None,
        }
        if columns:
            extra["columns"] = columns
        if self.tokenizer is not None:
            extra["tokenizer"] = {
                "name": self.tokenizer.name,
                "sha256": self.tokenizer.digest,
                "special": dict(self.tokenizer.special),
            }
        longest = max(batch.tokens.shape[1] for batch in read.parts.values())
        return Facts(
            name,
            self.splits.rows,
            digest(self.splits),
            unit="texts",
            classes=() if self.objective == "masked" else self.classes,
            shapes={"tokens": (longest,)},
            extra=extra,
            remarks=read.remarks + remarks_on(self.class_counts or {}, "texts"),
        )


def _read(source: TextSplits, max_length: int, name: str | None, vocabulary: int) -> _Read:
    """Return the splits as batches, the tokenizer, and the remarks of the source and of cutting."""
    tokenizer = _tokenizer(source, name, vocabulary)
    padding = UNNAMED_IDS["pad"] if tokenizer is None else tokenizer.padding_id
    parts, remarks = {}, list(source.remarks)
    for split, what in NAMES.items():
        part = getattr(source, split)
        if part is None:
            continue
        tokens = _tokens(part, source, tokenizer, max_length)
        parts[split] = tokens.batch(padding)
        cut = int((tokens.whole > tokens.lengths).sum())
        if cut:
            texts, share = counted(tokens.n, f"{what} text"), f"{cut / tokens.n:.1%}"
            remarks.append(
                f"{cut:,} of {texts} ({share}) cut to {max_length} tokens: see data.max_length"
            )
    size = source.vocabulary if tokenizer is None else tokenizer.vocabulary
    assert size is not None
    return _Read(parts, tokenizer, size, tuple(remarks))


def _tokenizer(source: TextSplits, name: str | None, vocabulary: int) -> TextTokenizer | None:
    """Return the tokenizer that the run kept, or one with this name, or one trained on the texts.

    None if the splits are tokens already.
    """
    train = source.train
    if not isinstance(train, Texts):
        return None
    if (own := kept()) is not None:
        return replace(own, name=name or TRAINED)
    if name is not None:
        return loaded(name)
    return trained([*train.first, *(train.second or ())], vocabulary)


def _tokens(
    part: Texts | Tokens, source: TextSplits, tokenizer: TextTokenizer | None, max_length: int
) -> Tokens:
    """Return a split as tokens with labels."""
    classes = source.classes
    if isinstance(part, Tokens):
        part.check(len(classes), source.vocabulary)
        return part
    assert tokenizer is not None
    part.check(classes)
    return replace(tokens_of(part, tokenizer, max_length), labels=_as_numbers(part, classes))


def _as_numbers(texts: Texts, classes: tuple[str, ...]) -> Tensor | None:
    """Return the labels: int64 (n,), their indices in `classes`, or float32 (n,) of numbers."""
    if texts.labels is None:
        return None
    if not classes:
        return torch.tensor(texts.labels, dtype=torch.float32)
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[str(label)] for label in texts.labels])
