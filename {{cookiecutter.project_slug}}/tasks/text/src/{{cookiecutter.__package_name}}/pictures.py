"""The pictures drawn into a run's folder at its end, in addition to the engine's curves."""

from matplotlib.figure import Figure
from torch import Tensor

from .engine.monitor.names import drawable
from .engine.monitor.predictions import FinishedRun

NAME_WIDTH = 22  # letters of a class's name
MOST_CLASSES = 40  # that a picture has room for


def draw(run: FinishedRun) -> dict[str, Figure]:
    """Return the pictures of a finished run by their file names."""
    classes, targets = run.facts.classes, run.targets
    if not 1 < len(classes) <= MOST_CLASSES or targets is None or run.predictions.ndim != 2:
        return {}
    return {"confusion.png": draw_confusion(run.predictions.argmax(1), targets, classes)}


def draw_confusion(predicted: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Figure:
    """Draw how many texts of each class, a row, were taken for which class, a column.

    `predicted` and `labels` are int64 (n,).
    """
    shown = drawable(classes, NAME_WIDTH)
    if shown.note:
        print(f"note: picture of the confusions: {shown.note}", flush=True)
    k = len(classes)
    counts = (labels * k + predicted).bincount(minlength=k * k).view(k, k)
    side = 2.5 + 0.3 * k
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(counts / counts.sum(1, keepdim=True).clamp(min=1), cmap="Blues", vmin=0, vmax=1)
    for row, column in counts.nonzero().tolist():
        colour = "white" if row == column else "black"
        axes.text(
            column,
            row,
            str(int(counts[row, column])),
            ha="center",
            va="center",
            color=colour,
            fontsize=8,
        )
    for axis, meaning in ((axes.xaxis, "prediction"), (axes.yaxis, "label")):
        axis.set_ticks(range(k), shown.names, fontfamily=shown.families, parse_math=False)
        axis.set_label_text(meaning)
    axes.tick_params("x", rotation=90)
    errors = int((predicted != labels).sum())
    axes.set_title(f"{errors} errors in {len(labels)} texts")
    return figure
