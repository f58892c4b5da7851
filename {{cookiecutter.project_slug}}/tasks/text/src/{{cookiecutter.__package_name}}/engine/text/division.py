"""Which split each text is in, and which texts are in several: by their content alone."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from ..hashing import sha256_of
from ..plurals import counted, plural
from .entries import Entries

WORDS = {"train": "training", "val": "validation", "test": "test"}


def contents(entries: Entries) -> list[str]:
    """Return the SHA-256 of each row's text, or of both its texts."""
    second = entries.second or [""] * entries.n
    pairs = zip(entries.first, second, strict=True)
    return [sha256_of([one.encode(), b"\0", other.encode()]) for one, other in pairs]


def divide(entries: Entries, digests: list[str], shares: dict[str, float], by_label: bool) -> None:
    """Move `shares` of the training rows to other splits: those with the first digests.

    The choice depends neither on the order of the rows nor on a seed, and equal texts stay
    together. If `by_label`, the shares are those of each label's rows. At least one row of three or
    more is moved.
    """
    groups = defaultdict[str, set[str]](set)
    training = entries.of("train")
    for i in training:
        groups[entries.labels[i] if by_label else ""].add(digests[i])
    chosen = dict[str, str]()
    for group in groups.values():
        ordered, start = sorted(group), 0
        for split, share in shares.items():
            count = max(round(len(ordered) * share), 1) if share and len(ordered) > 2 else 0
            chosen |= dict.fromkeys(ordered[start : start + count], split)
            start += count
    for i in training:
        entries.splits[i] = chosen.get(digests[i], "train")


def of_copies(entries: Entries, digests: list[str]) -> Iterator[str]:
    """Yield a line for validation and test if they share texts with an earlier split."""
    seen = dict[str, int]()
    for split, others in (("train", ""), ("val", "training"), ("test", "training or validation")):
        rows = entries.of(split)
        copies = [i for i in rows if digests[i] in seen]
        if copies:
            example, other = copies[0], seen[digests[copies[0]]]
            is_one_too = plural(len(copies), f"is also a {others} text", f"are also {others} texts")
            yield (
                f"{len(copies):,} of {len(rows):,} {WORDS[split]} texts {is_one_too},"
                f" such as {entries.places[example]} ({entries.places[other]}):"
                f" {WORDS[split]} metrics are too good"
            )
        for i in rows:
            seen.setdefault(digests[i], i)


def of_contradictions(entries: Entries, digests: list[str], rows: Iterable[int]) -> Iterator[str]:
    """Yield a line if equal texts among some rows have different labels."""
    first, contrary = dict[str, int](), list[tuple[int, int]]()
    for i in rows:
        other = first.setdefault(digests[i], i)
        if entries.labels[other] != entries.labels[i]:
            contrary.append((i, other))
    if contrary:
        example, first_of_it = contrary[0]
        n = len(contrary)
        yield (
            f"{counted(n, 'training text')} {plural(n, 'has', 'have')} another label than the same"
            " text elsewhere,"
            f" such as {entries.places[example]} ({entries.places[first_of_it]})"
        )
