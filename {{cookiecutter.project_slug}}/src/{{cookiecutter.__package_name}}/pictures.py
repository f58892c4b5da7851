"""The pictures drawn at a run's end, in addition to the engine's curves, and before it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .engine.images.batch import ImageBatch
from .engine.images.module import ImageModule
from .engine.images.shown import as_rgb
from .engine.model.objectives import THRESHOLD, labels_above
from .engine.monitor.confusion import errors_in, in_order
from .engine.monitor.names import drawable, listed, width
from .engine.monitor.predictions import FinishedRun

RIGHT, WRONG, NEUTRAL = "#2e7d32", "#c62828", "black"
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

    `images` are uint8 (n, h, w, c), `labels` int64 (n,), `probabilities` (n, classes). Of several
    labels, both are (n, classes), and of numbers (n,): the images come in the order of their error.
    """
    shown = drawable(classes, NAME_WIDTH)
    if shown.note:
        print(f"note: picture of the predictions: {shown.note}", flush=True)
    if labels.ndim == 2:
        said = of_labels(labels, probabilities, shown.names)
    elif labels.is_floating_point():
        said = of_numbers(labels, probabilities)
    else:
        said = of_classes(labels, probabilities, shown.names)
    order = said.order[: COLUMNS * ROWS].tolist()
    captions = [said.caption(i) for i in order]
    colours = [NEUTRAL] * len(order)  # of numbers, none is right or wrong
    if said.wrong is not None:
        colours = [WRONG if said.wrong[i] else RIGHT for i in order]
    return draw_sheet(images, captions, colours, shown.families, said.title, order)


def look(batch: ImageBatch, data: ImageModule) -> Figure:
    """Draw training images as the network sees them, with their labels; a mixed one has two."""
    mixed = batch.mixed_labels is not None
    most = NAME_WIDTH - len("99% ") * mixed
    shown = drawable(data.facts().classes, most)
    captions = [in_words(label, shown.names, most) for label in batch.labels]
    if batch.mixed_labels is not None and batch.mix_weights is not None:
        for i, weight in enumerate(batch.mix_weights.tolist()):
            other = in_words(batch.mixed_labels[i], shown.names, most)
            captions[i] = f"{weight:.0%} {captions[i]}\n{1 - weight:.0%} {other}"
    colours = [NEUTRAL] * len(captions)
    title = "training images, as the network sees them"
    images = batch.images.permute(0, 2, 3, 1)
    return draw_sheet(images, captions, colours, shown.families, title)


def in_words(label: Tensor, names: Sequence[str], most: int = NAME_WIDTH) -> str:
    """Return an image's class, its labels, (classes,), or its number, in at most `most` columns."""
    if label.ndim:
        return listed(labels_above(label.tolist(), names), most) or "none"
    return f"{label:.6g}" if label.is_floating_point() else names[int(label)]


def draw_sheet(
    images: Tensor,
    captions: Sequence[str],
    colours: Sequence[str],
    families: list[str],
    title: str,
    order: Sequence[int] | None = None,
) -> Figure:
    """Draw images, uint8 (n, h, w, c), in rows of 8, each below its caption.

    `order` are the indices of those that are drawn; all, if it is not given.
    """
    order = range(len(images)) if order is None else order
    height = 1.3 * -(-len(order) // COLUMNS) + 0.15
    pixels = as_rgb(images)
    figure = Figure(figsize=(1.5 * COLUMNS, 1.5 * height))
    figure.suptitle(title)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all images: many take 3 times as long
    axes.set_axis_off()
    high, wide = (0.9 * side / max(images.shape[1:3]) for side in images.shape[1:3])
    for place, (i, text, colour) in enumerate(zip(order, captions, colours, strict=True)):
        left, top = place % COLUMNS + 0.05, 1.3 * (place // COLUMNS) + 0.35
        extent = (left, left + wide, top + high, top)
        axes.imshow(pixels[i].numpy(), extent=extent, interpolation="nearest")
        caption = axes.text(left + 0.45, top - 0.04, text, fontsize=8, color=colour, ha="center")
        caption.set(fontfamily=families, parse_math=False)
    axes.set(xlim=(0, COLUMNS), ylim=(height - 0.15, -0.15))
    return figure


class Said(NamedTuple):
    """What is said of n images: in which order, int64 (n,), which are wrong, bool (n,), and how.

    Of numbers, `wrong` is None.
    """

    title: str
    order: Tensor
    wrong: Tensor | None
    caption: Callable[[int], str]


def of_classes(labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> Said:
    sure, predicted = probabilities.max(1)
    wrong = predicted != labels

    def caption(i: int) -> str:
        pair = [predicted[i], *([labels[i]] if wrong[i] else [])]
        return f"{in_lines([names[int(one)] for one in pair])}\n{sure[i]:.0%} sure"

    title = errors_in(int(wrong.sum()), len(labels), "validation images")
    title += f", {in_order(bool(wrong.any()))}"
    return Said(title, torch.where(wrong, -1 - sure, sure).argsort(stable=True), wrong, caption)


def of_labels(labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> Said:
    error = (probabilities - labels).abs()
    wrong = ((probabilities > THRESHOLD) != (labels > THRESHOLD)).any(1)

    def caption(i: int) -> str:
        each = [probabilities[i], *([labels[i]] if wrong[i] else [])]
        most = NAME_WIDTH - 6  # "not " comes before it
        return in_lines([in_words(row, names, most) for row in each])

    title = (
        f"{int(wrong.sum())} of {len(labels)} validation images have a wrong label, the worst first"
    )
    return Said(title, error.mean(1).argsort(descending=True, stable=True), wrong, caption)


def of_numbers(labels: Tensor, numbers: Tensor) -> Said:
    error = (numbers - labels).abs()
    order = error.argsort(descending=True, stable=True)
    title = f"mean error {error.mean():.6g} in {len(labels)} validation images, the largest first"
    pairs = list(zip(numbers, labels, strict=True))
    return Said(title, order, None, lambda i: in_lines([in_words(one, ()) for one in pairs[i]]))


def in_lines(names: list[str]) -> str:
    """Return a predicted name and, if it is wrong, the right one, in one line if it fits."""
    line = ", not ".join(names)
    return line if width(line) <= NAME_WIDTH else "\nnot ".join(names)
