"""How many training rows each class has, and weights with which all are drawn as often."""

from collections.abc import Mapping, Sequence

from torch import Tensor

RARE = 10  # the largest class has more than so many times the rows of a rare one
MOST_NAMED = 8
WEIGHTS, SAMPLER = "--model.class_weights balanced", "--data.sampler balanced"


def class_counts(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """Return the number of rows of each class by its name; `labels` are int64 (n,)."""
    return dict(zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True))


def balanced(labels: Tensor) -> Tensor:
    """Return sample weights, float64 (n,), with which each class is drawn as often as another."""
    return 1 / labels.bincount().double()[labels]


def remarks_on(
    counts: Mapping[str, int], unit: str, ways: str = f"{WEIGHTS} or {SAMPLER}"
) -> tuple[str, ...]:
    """Return a remark with the classes' counts if the rarest has few rows beside the largest.

    `ways` are the flags that count all classes alike.
    """
    ordered = sorted(counts, key=lambda name: counts[name])
    if not ordered or counts[ordered[0]] * RARE >= counts[ordered[-1]]:
        return ()
    named = [f"{name} {counts[name]:,}" for name in ordered]
    if len(named) > MOST_NAMED:
        named = [*named[: MOST_NAMED - 2], "…", named[-1]]
    return (
        f"some classes have few training {unit}: {', '.join(named)}."
        f" {ways} counts all classes alike",
    )
