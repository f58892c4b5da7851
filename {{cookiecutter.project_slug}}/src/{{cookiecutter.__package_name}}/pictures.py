"""The pictures in a run's folder: how it learned, and what it gets wrong."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .engine.run.metrics import read_metrics

RIGHT, WRONG = "#2e7d32", "#c62828"
COLUMNS, ROWS = 8, 4


def draw_curves(metrics: Path) -> Figure:
    """Draw loss and accuracy over the epochs from a metrics.csv."""
    rows = read_metrics(metrics)
    per_epoch = max((row["step"] + 1 for row in rows if row["epoch"] == 0), default=1)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, label, style in (
            ("train", "training batches", {"color": "#4c78a8"}),
            ("val", "validation", {"color": "#f58518", "marker": "."}),
        ):
            points = [row for row in rows if f"{split}/{quantity}" in row]
            x = [(row["step"] + 1) / per_epoch for row in points]
            y = [row[f"{split}/{quantity}"] for row in points]
            axes.plot(x, y, label=label, linewidth=1.5, **style)
        axes.set(xlabel="epoch", title=quantity, xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if quantity == "loss" and axes.dataLim.height > 0:
            axes.set_yscale("log")
    return figure


def draw_predictions(
    images: Tensor, labels: Tensor, probabilities: Tensor, classes: tuple[str, ...]
) -> Figure:
    """Draw images with their label and prediction: the surest mistakes first, then the least sure.

    `images` are uint8 (n, height, width, 3), `labels` int64 (n,), `probabilities` (n, classes).
    """
    sure, predicted = probabilities.max(1)
    wrong = predicted != labels
    order = torch.where(wrong, -1 - sure, sure).argsort(stable=True)[: COLUMNS * ROWS].tolist()
    height = 1.3 * -(-len(order) // COLUMNS) + 0.15
    figure = Figure(figsize=(1.5 * COLUMNS, 1.5 * height))
    figure.suptitle(f"{int(wrong.sum())} mistakes in {len(labels)} images, the surest first")
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: an Axes for each takes three times as long
    axes.set_axis_off()
    high, wide = (0.9 * side / max(images.shape[1:3]) for side in images.shape[1:3])
    for place, i in enumerate(order):
        left, top = place % COLUMNS + 0.05, 1.3 * (place // COLUMNS) + 0.35
        extent = (left, left + wide, top + high, top)
        axes.imshow(images[i].numpy(), extent=extent, interpolation="nearest")
        told = classes[predicted[i]] + (f", not {classes[labels[i]]}" if wrong[i] else "")
        short = told if len(told) <= 22 else told[:21] + "…"
        colour = WRONG if wrong[i] else RIGHT
        said = f"{short}\n{sure[i]:.0%} sure"
        axes.text(left + 0.45, top - 0.04, said, fontsize=8, color=colour, ha="center")
    axes.set(xlim=(0, COLUMNS), ylim=(height - 0.15, -0.15))
    return figure
