"""The result of a source of texts: three splits, the classes and the metrics."""

from dataclasses import dataclass, field

from ..contract import Splits
from ..errors import UserError
from ..plurals import counted
from .names import join_names

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

    def check(self, classes: tuple[str, ...]) -> None:
        """Raise UserError if a text is empty, a label is none of the classes, or one is missing."""
        columns = {"second": self.second, "labels": self.labels, "places": self.places}
        for name, column in columns.items():
            if column is not None and len(column) != self.n:
                raise UserError(
                    f"The source returned {counted(self.n, 'text')}, but"
                    f" {counted(len(column), 'entry', 'entries')} in {name}: expected as many."
                )
        for texts in (self.first, self.second or ()):
            for text, place in zip(texts, self.places, strict=False):
                if not text.strip():
                    raise UserError(f"{place} has an empty text: add words, or leave it out.")
        if classes and self.labels is not None:
            known = set(classes)
            for label, place in zip(self.labels, self.places, strict=True):
                if label not in known:
                    raise UserError(
                        f"{place} has the label {label!r}; expected one of the classes"
                        f" {join_names(classes)}."
                    )


@dataclass(frozen=True)
class TextSplits(Splits):
    """A data set of texts; each split is Texts, or Tokens if no tokenizer is needed.

    `classes` are empty if the labels are numbers. `metrics` are the names of the metrics that the
    data set is published with. `remarks` are notes for the user. `columns` are the names of the
    table's columns with the texts: one, or two of pairs. `vocabulary` is the number of tokens that
    Tokens are drawn from.
    """

    classes: tuple[str, ...] = field(kw_only=True)
    metrics: tuple[str, ...] = field(default=(), kw_only=True)
    remarks: tuple[str, ...] = field(default=(), kw_only=True)
    columns: tuple[str, ...] = field(default=(), kw_only=True)
    vocabulary: int | None = field(default=None, kw_only=True)
