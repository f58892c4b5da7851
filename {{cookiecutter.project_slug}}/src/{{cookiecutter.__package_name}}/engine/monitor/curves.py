"""The curves of a run: the loss and the best metric over epochs."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ..contract import Best


def draw_curves(rows: Sequence[dict[str, Any]], best: Best) -> Figure:
    """Draw the loss and the best metric over epochs, from the rows of metrics.csv."""
    per_epoch = max((row["step"] + 1 for row in rows if row["epoch"] == 0), default=1)
    quantities = list(dict.fromkeys(["loss", best.metric.partition("/")[2]]))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    parts = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, quantity in zip(parts, quantities, strict=True):
        for split, label, style in (
            ("train", "training batches", {"color": "#4c78a8"}),
            ("val", "validation", {"color": "#f58518", "marker": "."}),
        ):
            points = [row for row in rows if f"{split}/{quantity}" in row]
            x = [(row["step"] + 1) / per_epoch for row in points]
            y = [row[f"{split}/{quantity}"] for row in points]
            if points:
                axes.plot(x, y, label=label, linewidth=1.5, **style)
                axes.legend(frameon=False)
        axes.set(xlabel="epoch", title=quantity, xlim=(0, None))
        axes.grid(alpha=0.3)
        if quantity == "loss" and axes.dataLim.height > 0 and axes.dataLim.y0 > 0:
            axes.set_yscale("log")
    return figure
