"""Which images are copies of others, and which split each is in: by their content alone."""

from collections.abc import Mapping

import numpy as np

from .listing import NO_SPLIT
from .names import SPLITS

TRAIN = SPLITS.index("train")
LEFT_OUT = -2  # in place of a split, for an image that can't be used


class Contents:
    """The contents of n images, from their digests, uint8 (n, 32).

    `order` sorts the images by their digests, and by their indices if those are the same; both are
    int64 (n,). `numbers` counts the contents in this order.
    """

    def __init__(self, digests: np.ndarray) -> None:
        words = np.ascontiguousarray(digests).view(">u8").T
        first = words[0].astype(np.uint64)
        self.order = first.argsort(kind="stable")
        same = np.diff(first[self.order]) == 0
        rest = words[1:, self.order[:-1][same]] != words[1:, self.order[1:][same]]
        if rest.any():  # two digests with the same first 8 bytes
            self.order = np.lexsort(words[::-1])
            same = (words[:, self.order[:-1]] == words[:, self.order[1:]]).all(0)
        self.numbers = np.zeros(len(self.order), np.int64)
        np.cumsum(~same, out=self.numbers[1:])

    def of(self, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `order` and `numbers` without the images for which `some`, bool (n,), is false."""
        chosen = some[self.order]
        return self.order[chosen], self.numbers[chosen]


def copies(
    contents: Contents, labels: np.ndarray, splits: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    """Return for each image which other one it must not be a copy of, int64 (n,); -1 if none.

    That is an image with another label, or else the one that is kept in another split: of test,
    val and train the first that has one.
    """
    others = np.full(len(labels), -1)
    order, numbers = contents.of(usable)
    if not len(order):
        return others
    first = np.flatnonzero(np.diff(numbers, prepend=-1))  # of each content
    if len(first) == len(order):
        return others
    group = np.repeat(np.arange(len(first)), np.diff(first, append=len(order)))
    label, places = labels[order], np.arange(len(order))
    differs = label != label[first][group]  # from the first copy
    other = np.minimum.reduceat(np.where(differs, places, len(order)), first)
    mixed = other < len(order)
    partner = np.where(differs, first[group], other[group])
    rank = np.maximum(splits[order], TRAIN).astype(np.int64) * len(order)
    kept = np.maximum.reduceat(rank + len(order) - 1 - places, first) % len(order)
    kept = (len(order) - 1 - kept)[group]
    partner = np.where(mixed[group], partner, kept)
    wrong = mixed[group] | (splits[order] != splits[order][kept])
    others[order[wrong]] = order[partner[wrong]]
    return others


def divided(
    contents: Contents,
    labels: np.ndarray,
    splits: np.ndarray,
    usable: np.ndarray,
    shares: Mapping[str, float],
) -> np.ndarray:
    """Return the split of each image, int8 (n,); LEFT_OUT if it isn't usable.

    `shares` of each class's images that have no split, or are in train, go to other splits: those
    with the first digests.
    """
    result = np.where(usable, splits, np.int8(LEFT_OUT))
    order, numbers = contents.of(usable & ((splits == NO_SPLIT) | (splits == TRAIN)))
    result[order] = TRAIN
    by_label = labels[order].argsort(kind="stable")
    order, numbers = order[by_label], numbers[by_label]
    ends = np.cumsum(np.bincount(labels[order])) if len(order) else np.zeros(0, np.int64)
    for start, end in zip([0, *ends[:-1]], ends, strict=False):
        _divide(result, order[start:end], numbers[start:end], shares)
    return result


def _divide(
    result: np.ndarray, images: np.ndarray, numbers: np.ndarray, shares: Mapping[str, float]
) -> None:
    """Assign the images of one class, sorted by content, to the splits that have a share."""
    rank = np.cumsum(np.diff(numbers, prepend=numbers[:1]) != 0)  # of each image's content
    total, start = int(rank[-1]) + 1 if len(rank) else 0, 0
    for split, share in shares.items():
        count = max(round(total * share), 1) if share and total > 2 else 0
        chosen = (rank >= start) & (rank < start + count)
        result[images[chosen]] = SPLITS.index(split)
        start += count
