"""The result of a source of texts: three splits, the classes and the metrics."""

from dataclasses import dataclass, field

from ..contract import Splits

Label = str | float


@dataclass(frozen=True)
class Texts:
    """One split of n texts, or pairs of texts if there is a `second` of each.

    `labels` are names of classes, or numbers; None if there are none. `places` say where each text
    comes from, such as "train.tsv:12", for messages.
    """

    first: list[str]
    second: list[str] | None
    labels: list[Label] | None
    places: list[str]

    @property
    def n(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class TextSplits(Splits):
    """A data set of texts; each split is Texts, or Tokens if no tokenizer is needed.

    `classes` are empty if the labels are numbers. `metrics` are the names of the metrics that the
    data set is published with. `remarks` are notes for the user. `vocabulary` is the number of
    tokens that Tokens are drawn from.
    """

    classes: tuple[str, ...] = field(kw_only=True)
    metrics: tuple[str, ...] = field(default=(), kw_only=True)
    remarks: tuple[str, ...] = field(default=(), kw_only=True)
    vocabulary: int | None = field(default=None, kw_only=True)
