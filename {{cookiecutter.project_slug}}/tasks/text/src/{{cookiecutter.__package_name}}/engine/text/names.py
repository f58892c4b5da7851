"""What names mean: of splits and of columns."""

import re
from collections.abc import Iterable, Sequence

SPLITS = ("train", "val", "test")
MAX_LISTED = 20  # names in a message
SHOWN_LETTERS = 60  # of a name or text in a message
_SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
_SPLIT_OF = {name: split for split, names in _SPLIT_NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """Return train, val or test for one of their usual names, such as "Valid" or "hold-out"."""
    plain = re.sub(r"[\s_.-]+", "", name).lower()
    return _SPLIT_OF.get(plain) or _SPLIT_OF.get(re.sub(r"(set|data|split)$", "", plain))


def shown(text: str) -> str:
    """Return a name or text in quotes, shortened, in one line."""
    return repr(text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "…")


def join_names(names: Iterable[str]) -> str:
    """Return names in one line, separated by commas, in their order and shortened."""
    some = [shown(name) for name in names]
    return ", ".join(some[:MAX_LISTED]) + (", …" if len(some) > MAX_LISTED else "")


def find(name: str, columns: Sequence[str]) -> int | None:
    """Return the index of a column by its name; capitals and spaces around it don't matter."""
    plain = [column.strip().lower() for column in columns]
    wanted = name.strip().lower()
    return plain.index(wanted) if wanted in plain else None
