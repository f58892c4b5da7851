"""What the label of an image in a list says: a class, several labels, or a number."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ...model.objectives import SEPARATOR, ObjectiveName
from ...plurals import plural
from .listing import Listing
from .names import printable

MANY = 20  # so many whole numbers are perhaps no classes


def read_labels(found: Listing, objective: ObjectiveName) -> Listing:
    """Return a list with what its labels say, written in one way: "b; a" is the same as "a;b".

    Raises UserError if a label is no number and `objective` is numbers.
    """
    if objective == "classes":
        return found
    numbers, names = np.empty(len(found.names), np.int32), dict[str, int]()
    for i, name in enumerate(found.names):
        written = SEPARATOR.join(several(name))
        if objective == "numbers":
            if (number := _as_number(name)) is None:
                image = found.paths[int(np.flatnonzero(found.labels == i)[0])]
                raise UserError(
                    f"{printable(image)} has the label '{name}'; expected a number, as"
                    " data.options.objective is numbers."
                )
            written = repr(number)
        numbers[i] = names.setdefault(written, len(names))
    labels = numbers[found.labels]
    return replace(found, names=tuple(names), labels=labels, objective=objective)


def doubts_of_classes(names: Sequence[str]) -> list[str]:
    """Return a line about the classes of a table that look like several labels, or like numbers."""
    if joint := [name for name in names if SEPARATOR in name]:
        have = plural(len(joint), f"has a {SEPARATOR} in its", f"have a {SEPARATOR} in their")
        return [
            f"{len(joint):,} of {len(names):,} classes {have} name, such as"
            f" '{joint[0]}'. If it separates labels, set --data.options.objective labels"
        ]
    numbers = [(name, number) for name in names if (number := _as_number(name)) is not None]
    few = len(numbers) < MANY and all(number.is_integer() for _, number in numbers)
    if 2 * len(numbers) <= len(names) or few:
        return []
    which = "the" if len(numbers) == len(names) else f"{len(numbers):,} of"
    return [
        f"{which} {len(names):,} classes are numbers, such as {numbers[0][0]}. To learn numbers"
        " instead of classes, set --data.options.objective numbers"
    ]


def several(name: str) -> tuple[str, ...]:
    """Return the labels in "a; b", sorted; a single ";" has none."""
    return tuple(sorted({part.strip() for part in name.split(SEPARATOR)} - {""}))


def classes_in(name: str, objective: ObjectiveName) -> tuple[str, ...]:
    """Return the classes that a label of a list names."""
    if objective == "numbers":
        return ()
    return several(name) if objective == "labels" else (name,)


def targets_of(names: Sequence[str], classes: Sequence[str], objective: ObjectiveName) -> Tensor:
    """Return what is learned for each of m names, such as int64 (m,): see ImageBatch.

    A class that is no class of `classes` is -1.
    """
    places = {name: place for place, name in enumerate(classes)}
    if objective == "numbers":
        return torch.tensor([float(name) for name in names])
    if objective == "classes":
        return torch.tensor([places.get(name, -1) for name in names])
    targets = torch.zeros(len(names), len(classes))
    for i, name in enumerate(names):
        for label in several(name):
            if label in places:  # of an image that is left out
                targets[i, places[label]] = 1
    return targets


def _as_number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
