"""The curves of a run: the loss and the best metric over epochs."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..contract import Best


def draw_curves(rows: Sequence[dict[str, Any]], best: Best) -> Figure:
    """Draw the loss and the best metric over epochs, from the rows of metrics.csv."""
    per_epoch = max((row["step"] + 1 for row in rows if row["epoch"] == 0), default=1)
    quantities = list(dict.fromkeys(["loss", best.metric.partition("/")[2]]))
    figure = Figure(figsize=(10, 3.8))  # a layout engine would draw everything twice
    edges = {"left": 0.07, "right": 0.98, "bottom": 0.13, "top": 0.92, "wspace": 0.15}
    parts = figure.subplots(1, len(quantities), squeeze=False, gridspec_kw=edges)[0]
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
        axes.set(xlabel="epoch", xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=(1, 2, 5, 10)))
        axes.set_title(quantity, parse_math=False)
        axes.grid(alpha=0.3)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))  # long numbers would reach the next axes
        low, high = axes.dataLim.y0, axes.dataLim.y1
        if quantity == "loss" and 0 < 5 * low < high:
            axes.set_yscale("log")
            subs = (1, 2, 5) if high < 1e4 * low else (1,)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    return figure
