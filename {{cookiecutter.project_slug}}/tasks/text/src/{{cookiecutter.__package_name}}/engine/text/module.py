"""The base class of text data: texts become tokens, and the facts in a run's record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..contract import Facts, Splits
from ..data.module import Data, at_least
from ..data.rows import TensorRows, digest
from ..data.shared import once_per_host
from ..errors import UserError
from .batch import TextBatch
from .splits import Texts, TextSplits
from .tokenizer import TextTokenizer, trained
from .tokens import Tokens

MULTIPLE = 8  # batches are padded to multiples of it
UNNAMED_IDS = {"pad": 0, "mask": 1}  # of Tokens, which have no tokenizer
SEQUENCES = ("tokens", "segments", "targets")
NAMES = {"train": "training", "val": "validation", "test": "test"}


class _Read(NamedTuple):
    """What is made of a source once per host. `parts` are the batches of the splits by name."""

    parts: dict[str, TextBatch]
    tokenizer: TextTokenizer | None
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
        self.classes, self.metrics = source.classes, source.metrics
        self.max_length, self.masking = max_length, masking
        read = once_per_host(lambda: _read(source, max_length, tokenizer, vocabulary))
        self.tokenizer = read.tokenizer
        self._vocabulary = source.vocabulary
        self.splits = Splits(*(_rows(read.parts.get(part)) for part in NAMES))
        self._facts = self._described(name, read)

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
    def vocab_size(self) -> int:
        if self.tokenizer is None:
            return self._vocabulary or 1 + max(
                int(part.batch.tokens.max()) for part in self._parts()
            )
        return self.tokenizer.vocabulary

    @property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens by their role, such as pad and mask."""
        return UNNAMED_IDS if self.tokenizer is None else self.tokenizer.special_ids

    @property
    def padding_id(self) -> int:
        return self.special_ids["pad"]

    def facts(self) -> Facts:
        return self._facts

    def artifacts(self) -> dict[str, Path]:
        """Return the tokenizer's files: `--data.tokenizer RUN/artifacts/tokenizer` loads them."""
        if self.tokenizer is None:
            return {}
        return {f"tokenizer/{name}": path for name, path in self.tokenizer.files().items()}

    def _parts(self) -> Iterator[TensorRows]:
        yield from (part for part in vars(self.splits).values() if part is not None)

    def _described(self, name: str, read: _Read) -> Facts:
        """Return the facts. The service reads `extra` to tokenize as training did."""
        extra: dict[str, Any] = {
            "objective": self.objective,
            "max_length": self.max_length,
            "pair": self.splits.train.batch.segments is not None,
        }
        if self.tokenizer is not None:
            extra["tokenizer"] = {
                "name": self.tokenizer.name,
                "sha256": self.tokenizer.digest,
                "special": dict(self.tokenizer.special),
            }
        longest = max(int(part.batch.tokens.shape[1]) for part in self._parts())
        return Facts(
            name,
            self.splits.rows,
            digest(self.splits),
            unit="texts",
            classes=() if self.objective == "masked" else self.classes,
            shapes={"tokens": (longest,)},
            extra=extra,
            remarks=read.remarks,
        )


def _read(source: TextSplits, max_length: int, tokenizer: str | None, vocabulary: int) -> _Read:
    """Return the splits as batches, the tokenizer, and the remarks of the source and of cutting."""
    chosen: TextTokenizer | None = None
    if isinstance(source.train, Texts):
        train = source.train
        chosen = trained([*train.first, *(train.second or ())], vocabulary)
    parts, remarks = {}, list(source.remarks)
    for split, what in NAMES.items():
        texts = getattr(source, split)
        if texts is None:
            continue
        tokens = texts
        labels = texts.labels
        if chosen is not None:
            tokens = chosen.encode(texts.first, texts.second, max_length)
            labels = _as_numbers(texts, source.classes)
        parts[split] = tokens.batch(chosen.padding_id if chosen else UNNAMED_IDS["pad"])
        parts[split] = parts[split]._replace(labels=labels)
        cut = int((tokens.whole > tokens.lengths).sum())
        if cut:
            remarks.append(
                f"{cut:,} of {tokens.n:,} {what} texts ({cut / tokens.n:.1%}) are longer than"
                f" {max_length} tokens and were cut: --data.max_length"
            )
    return _Read(parts, chosen, tuple(remarks))


def _as_numbers(texts: Texts, classes: tuple[str, ...]) -> Tensor | None:
    """Return the labels: int64 (n,), their indices in `classes`, or float32 (n,) of numbers."""
    if texts.labels is None:
        return None
    if not classes:
        return torch.tensor(texts.labels, dtype=torch.float32)
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[str(label)] for label in texts.labels])


def _rows(batch: TextBatch | None) -> TensorRows | None:
    if batch is None:
        return None
    return TensorRows(batch, batch.lengths, SEQUENCES)


__all__ = ["TextModule", "Tokens"]
