"""The handwritten digits as files, and tables of them for each objective."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ROWS = 600
SPLITS = ("train",) * 7 + ("val", "val", "test")
MARKS = {"even": {0, 2, 4, 6, 8}, "large": {6, 7, 8, 9}, "round": {0, 3, 6, 8}}


def split_of(i: int) -> str:
    return SPLITS[i // 10 % 10]


def label_of(objective: str, digit: int) -> str:
    """Return what a table says of a digit: its class, its labels, or a number."""
    if objective == "classes":
        return f"digit {digit}"
    if objective == "numbers":
        return f"{digit / 9:.3f}"
    return "; ".join(name for name, digits in MARKS.items() if digit in digits) or ";"


def write_digits(root: Path) -> None:
    """Write 0.png to 599.png and a table of them for each objective, such as labels.csv.

    Of the classes, no row of the test split has the last.
    """
    digits = load_digits()
    for i, pixels in enumerate(digits.images[:ROWS]):
        Image.fromarray((pixels * 15).astype(np.uint8)).save(root / f"{i}.png")
    for objective in ("classes", "labels", "numbers"):
        lines = ["path,label,split"]
        for i, digit in enumerate(digits.target[:ROWS]):
            left_out = (objective, split_of(i), digit) == ("classes", "test", 9)
            split = "train" if left_out else split_of(i)
            lines.append(f"{i}.png,{label_of(objective, digit)},{split}")
        (root / f"{objective}.csv").write_text("\n".join(lines))
