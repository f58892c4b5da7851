"""The confusion matrix: how many rows of each class are predicted as which class."""

from matplotlib.figure import Figure
from torch import Tensor

from .names import drawable, width

NAME_WIDTH = 22  # letters of a class's name


def confusion_of(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count n rows by label, down, and prediction, across: int64 (classes, classes).

    `predicted` and `labels` are int64 (n,), on the CPU.
    """
    pairs = labels * classes + predicted
    return pairs.bincount(minlength=classes * classes).view(classes, classes)


def draw_confusion(confusion: Tensor, classes: tuple[str, ...], unit: str) -> Figure:
    """Draw a confusion matrix int64 (C, C). The colour is the share of a class's rows.

    `unit` is the word for rows.
    """
    shown, number = drawable(classes, NAME_WIDTH), len(classes)
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = 2.3 + 0.3 * number + 0.1 * max(map(width, shown.names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for label, prediction in confusion.nonzero().tolist():
        count, dark = int(confusion[label, prediction]), shares[label, prediction] > 0.5
        colour = "white" if dark else "black"
        axes.text(prediction, label, str(count), fontsize=8, color=colour, ha="center", va="center")
    for axis, meaning in ((axes.xaxis, "prediction"), (axes.yaxis, "label")):
        axis.set_ticks(range(number), shown.names, fontfamily=shown.families, parse_math=False)
        axis.set_label_text(meaning)
    axes.tick_params("x", rotation=90)
    total = int(confusion.sum())
    axes.set_title(errors_in(total - int(confusion.diagonal().sum()), total, unit))
    return figure


def errors_in(errors: int, rows: int, unit: str) -> str:
    """Return such as "3 errors in 360 test images"."""
    return f"{errors:,} error{'' if errors == 1 else 's'} in {rows:,} {unit}"


def in_order(errors: bool) -> str:
    """Return how a picture of predictions is ordered: errors come first, if there are any."""
    right = "the least confident first"
    return f"the most confident first, then correct ones, {right}" if errors else right
