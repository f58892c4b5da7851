"""What a prediction says, as cells of a table: a class with its probability, or numbers.

Shapes: n rows, k outputs of a row.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ..json_text import to_json
from ..model.objectives import joined_labels
from ..short_floats import short_list
from .prediction_file import Column

BEST = 5  # classes that are named
DIGITS = 6  # of a probability, after the point


class Answers(Protocol):
    """Turns predictions into cells: `reduced` on their device, `cells` on the CPU."""

    columns: list[Column]

    def reduced(self, predictions: Tensor) -> tuple[Tensor, ...]: ...
    def cells(self, *reduced: Tensor) -> list[list[Any]]: ...


def answers_of(
    predictions: Tensor,
    classes: Sequence[str],
    lengths: bool,
    everything: bool,
    several: bool = False,
) -> Answers:
    """Return how predictions like these are written.

    `lengths` is whether rows, and so their predictions, differ in length; `everything`, whether the
    probabilities of all classes are written; `several`, whether a row may have any number of them.
    """
    if classes and predictions.shape[1:] == (len(classes),):
        return OfLabels(classes) if several else OfClasses(classes, everything)
    if predictions.ndim > 2 or (lengths and predictions.ndim > 1):
        return AsJson()
    return OfNumbers(predictions)


class OfClasses:
    """Probabilities (n, classes): the best classes, the first of them as `class`."""

    def __init__(self, classes: Sequence[str], everything: bool) -> None:
        self.classes, self.everything = list(classes), everything
        self.best = min(BEST, len(classes))
        self.columns = [Column("class", str), Column("probability", float, DIGITS)]
        for i in range(1, self.best + 1):
            self.columns += [Column(f"top{i}", str), Column(f"top{i}_probability", float, DIGITS)]
        if everything:
            self.columns += [Column(f"p_{name}", float, DIGITS) for name in classes]

    def reduced(self, predictions: Tensor) -> tuple[Tensor, ...]:
        shares, places = predictions.sort(dim=1, descending=True, stable=True)
        best = shares[:, : self.best].contiguous(), places[:, : self.best].contiguous()
        return (*best, predictions) if self.everything else best

    def cells(self, *reduced: Tensor) -> list[list[Any]]:
        shares, places, *others = (part.tolist() for part in reduced)
        rows = []
        for each, where in zip(shares, places, strict=True):
            pairs = [(self.classes[i], share) for i, share in zip(where, each, strict=True)]
            rows.append([*pairs[0], *(cell for pair in pairs for cell in pair)])
        if others:
            rows = [row + every for row, every in zip(rows, others[0], strict=True)]
        return rows


class OfLabels:
    """Probabilities (n, labels): those above one half as `labels`, and the probability of each."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        each = (Column(f"p_{name}", float, DIGITS) for name in classes)
        self.columns = [Column("labels", str), *each]

    def reduced(self, predictions: Tensor) -> tuple[Tensor, ...]:
        return (predictions,)

    def cells(self, *reduced: Tensor) -> list[list[Any]]:
        return [[joined_labels(row, self.classes), *row] for row in reduced[0].tolist()]


class OfNumbers:
    """Numbers (n,) or (n, k): a column for each."""

    def __init__(self, predictions: Tensor) -> None:
        kind = float if predictions.is_floating_point() else int
        names = ["prediction"]
        if predictions.ndim > 1:
            names = [f"prediction{i}" for i in range(1, predictions.shape[1] + 1)]
        self.columns = [Column(name, kind) for name in names]

    def reduced(self, predictions: Tensor) -> tuple[Tensor, ...]:
        return (predictions.reshape(len(predictions), -1),)

    def cells(self, *reduced: Tensor) -> list[list[Any]]:
        return short_list(reduced[0])


class AsJson:
    """Predictions of any other shape: one column of JSON."""

    def __init__(self) -> None:
        self.columns = [Column("prediction", str)]

    def reduced(self, predictions: Tensor) -> tuple[Tensor, ...]:
        return (predictions,)

    def cells(self, *reduced: Tensor) -> list[list[Any]]:
        return [[to_json(each)] for each in short_list(reduced[0])]
