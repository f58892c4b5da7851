"""How many training rows each class has, and weights with which all are drawn as often."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from ..errors import UserError

Sampler = Literal["balanced"] | None

RARE = 10  # the largest class has more than so many times the rows of a rare one
MOST_NAMED = 8
WAYS = "--model.class_weights balanced or --data.sampler balanced"  # to count all classes alike


def class_counts(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """Return the number of rows of each class by its name; `labels` are int64 (n,)."""
    return dict(zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True))


def sample_weights(sampler: Sampler, labels: Tensor) -> Tensor | None:
    """Return weights, float64 (n,), with which each class is drawn as often as another.

    None if no sampler is asked for: each row is visited once in an epoch.
    """
    return None if sampler is None else 1 / labels.bincount().double()[labels]


def check_sampler(sampler: Sampler, objective: str) -> None:
    """Raise UserError if a sampler is asked for, but the rows have no classes to balance."""
    if sampler is not None and objective != "classes":
        raise UserError(
            f"data.sampler is {sampler}, which needs classes, but the data's objective is"
            f" {objective}. Leave it unset."
        )


def remarks_on(counts: Mapping[str, int], unit: str) -> tuple[str, ...]:
    """Return a remark with the classes' counts if the rarest has few rows beside the largest."""
    ordered = sorted(counts, key=lambda name: counts[name])
    if not ordered or counts[ordered[0]] * RARE >= counts[ordered[-1]]:
        return ()
    named = [f"{name} {counts[name]:,}" for name in ordered]
    if len(named) > MOST_NAMED:
        named = [*named[: MOST_NAMED - 2], "…", named[-1]]
    return (
        f"some classes have few training {unit}: {', '.join(named)}."
        f" {WAYS} counts all classes alike",
    )
