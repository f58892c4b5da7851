"""The pictures drawn into a run's folder at its end, in addition to the engine's curves."""

import textwrap
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .engine.monitor.confusion import confusion_of, draw_confusion, errors_in, in_order
from .engine.monitor.names import INSTALL, drawable, visible
from .engine.monitor.predictions import FinishedRun
from .engine.text.batch import TextBatch
from .engine.text.module import TextModule
from .engine.text.shown import texts_of, tokens_of

RIGHT, WRONG = "#2e7d32", "#c62828"
ROWS = 24  # texts that are shown
NAME_WIDTH = 22  # columns of a class's name
LINE = 80  # columns of printed text
LETTER = 0.0052  # width of a text's letter, as a share of the picture's
MOST_CLASSES = 40  # that a table has room for


def draw(run: FinishedRun) -> dict[str, Figure]:
    """Return the pictures of a finished run by their file names; none of masked tokens."""
    predictions, labels, classes = run.predictions, run.targets, run.facts.classes
    if labels is None or labels.ndim > 1:
        return {}
    if not classes:
        return {"predictions.png": draw_numbers(predictions, labels)}
    pictures = {}
    if run.data.tokenizer is not None:
        texts = texts_of(run.batch, run.data.tokenizer)
        pictures["predictions.png"] = draw_predictions(texts, labels, predictions, classes)
    if len(classes) <= MOST_CLASSES:
        counts = confusion_of(predictions.argmax(1), labels, len(classes))
        pictures["confusion.png"] = draw_confusion(counts, classes, "validation texts")
    return pictures


def look(batch: TextBatch, data: TextModule) -> str:
    """Return training texts as the tokenizer cuts them, each below its label."""
    classes, blocks = data.facts().classes, []
    for i, tokens in enumerate(tokens_of(batch, data.tokenizer)):
        title = f"text {i + 1}"
        if batch.labels is not None:
            label = batch.labels[i]
            title = visible(classes[label]) if classes else f"{label:g}"
        lines = textwrap.wrap(" ".join(tokens), LINE - 2, break_on_hyphens=False)
        blocks.append("\n  ".join([title, *lines]))
    return "\n".join(blocks)


def draw_predictions(
    texts: list[str], labels: Tensor, probabilities: Tensor, classes: tuple[str, ...]
) -> Figure:
    """Draw texts with label and prediction: most confident errors first, then the least confident.

    `labels` are int64 (n,), `probabilities` (n, classes).
    """
    sure, predicted = probabilities.max(1)
    wrong = predicted != labels
    order = torch.where(wrong, -1 - sure, sure).argsort(stable=True)[:ROWS].tolist()
    names = drawable(classes, NAME_WIDTH)
    figure = Figure(figsize=(12, 0.5 + 0.25 * len(order)))
    errors = errors_in(int(wrong.sum()), len(labels), "validation texts")
    figure.suptitle(f"{errors}, {in_order(bool(wrong.any()))}")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(order), -2))
    small: Any = {"fontsize": 8, "va": "center", "parse_math": False}
    right = 0.0  # where the longest prediction ends
    for line, i in enumerate(order):
        said = f"{names.names[predicted[i]]}, {sure[i]:.0%} sure"
        if wrong[i]:
            said = f"{said}, not {names.names[labels[i]]}"
        colour = WRONG if wrong[i] else RIGHT
        drawn = axes.text(0.01, line, said, color=colour, fontfamily=names.families, **small)
        right = max(right, drawn.get_window_extent().x1 / figure.bbox.width)
    left = right + 0.02
    shown = drawable([texts[i] for i in order], int((1 - left) / LETTER), numbered=False)
    for line, text in enumerate(shown.names):
        axes.text(left, line, text, fontfamily=shown.families, **small)
    if names.note or shown.note:
        print(f"note: predictions.png: no installed font has all characters. {INSTALL}", flush=True)
    return figure


def draw_numbers(predictions: Tensor, labels: Tensor) -> Figure:
    """Draw predicted numbers over the right ones, both (n,); on the line they are equal."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(labels, predictions, s=8, alpha=0.5)
    middle, error = float(labels.mean()), float((predictions - labels).abs().mean())
    axes.axline((middle, middle), slope=1, color="grey", linewidth=1)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="label", ylabel="prediction")
    axes.set_title(f"{len(labels)} validation texts, mean absolute error {error:.3g}")
    return figure
