"""The pictures drawn into a run's folder at its end, in addition to the engine's curves."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .engine.images.shown import as_rgb
from .engine.monitor.names import drawable, width
from .engine.monitor.predictions import FinishedRun

RIGHT, WRONG = "#2e7d32", "#c62828"
COLUMNS, ROWS = 8, 4
NAME_WIDTH = 22  # letters that fit over an image


def draw(run: FinishedRun) -> dict[str, Figure]:
    """Return the pictures of a finished run by their file names."""
    images = run.batch.images.permute(0, 2, 3, 1)
    predictions = draw_predictions(images, run.batch.labels, run.predictions, run.facts.classes)
    return {"predictions.png": predictions}


def draw_predictions(
    images: Tensor, labels: Tensor, probabilities: Tensor, classes: tuple[str, ...]
) -> Figure:
    """Draw images with label and prediction: most confident errors first, then the least confident.

    `images` are uint8 (n, h, w, c), `labels` int64 (n,), `probabilities` (n, classes).
    """
    shown = drawable(classes, NAME_WIDTH)
    if shown.note:
        print(f"note: picture of the predictions: {shown.note}", flush=True)
    sure, predicted = probabilities.max(1)
    wrong = predicted != labels
    order = torch.where(wrong, -1 - sure, sure).argsort(stable=True)[: COLUMNS * ROWS].tolist()
    height = 1.3 * -(-len(order) // COLUMNS) + 0.15
    colours = as_rgb(images)
    figure = Figure(figsize=(1.5 * COLUMNS, 1.5 * height))
    errors = f"{int(wrong.sum())} errors in {len(labels)} images, the most confident first"
    figure.suptitle(errors)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all images: many take 3 times as long
    axes.set_axis_off()
    high, wide = (0.9 * side / max(images.shape[1:3]) for side in images.shape[1:3])
    for place, i in enumerate(order):
        left, top = place % COLUMNS + 0.05, 1.3 * (place // COLUMNS) + 0.35
        extent = (left, left + wide, top + high, top)
        axes.imshow(colours[i].numpy(), extent=extent, interpolation="nearest")
        names = [shown.names[predicted[i]], *([shown.names[labels[i]]] if wrong[i] else [])]
        text = f"{in_lines(names)}\n{sure[i]:.0%} sure"
        colour = WRONG if wrong[i] else RIGHT
        caption = axes.text(left + 0.45, top - 0.04, text, fontsize=8, color=colour, ha="center")
        caption.set(fontfamily=shown.families, parse_math=False)
    axes.set(xlim=(0, COLUMNS), ylim=(height - 0.15, -0.15))
    return figure


def in_lines(names: list[str]) -> str:
    """Return a predicted name and, if it is wrong, the right one, in one line if it fits."""
    line = ", not ".join(names)
    return line if width(line) <= NAME_WIDTH else "\nnot ".join(names)
