"""The pictures of a finished run, with predictions of its best weights for some rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..contract import Best, Facts
from ..data.module import Data
from ..data.rows import joined
from ..fast.settings import device_settings
from ..run.checkpoint_files import BEST
from ..run.metrics import read_metrics
from ..task import Task
from .curves import draw_curves

MAX_PREDICTIONS = 500  # validation rows predicted for pictures


@dataclass(frozen=True)
class FinishedRun:
    """The input of a project's `draw`: logged metrics and predictions for validation rows.

    `metrics` are the rows of metrics.csv. `batch` holds the first validation rows, `predictions`
    and `targets` (n, …) the task's predict() and target() of them. All tensors are on the CPU.
    `data` is what the batch came from.
    """

    metrics: list[dict[str, Any]]
    best: Best
    facts: Facts
    batch: Any
    predictions: Tensor
    targets: Tensor | None
    data: Any = None


Draw = Callable[[FinishedRun], dict[str, Figure]]  # file name -> picture


def draw_pictures(
    folder: Path, task: Task, data: Data, facts: Facts, draw: Draw | None
) -> list[str]:
    """Save the curves and the project's pictures of the best weights; return the file names."""
    best = folder / "checkpoints" / BEST
    if best.exists():
        task.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    batch, predictions, targets = predict(task, data)
    rows = read_metrics(folder / "metrics.csv")
    run = FinishedRun(rows, task.best, facts, batch, predictions, targets, data)
    pictures = {"curves.png": draw_curves(rows, task.best)} | (draw(run) if draw else {})
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=110)
    return list(pictures)


@torch.inference_mode()
def predict(task: Any, data: Data) -> tuple[Any, Tensor, Tensor | None]:
    """Return the first validation rows as one batch, with predictions and targets, on the CPU."""
    device = task.trainer.strategy.root_device  # a Trainer leaves the weights on the CPU
    task.to(device).eval()
    parts = []
    eager = torch.compiler.set_stance("force_eager")  # too few rows to be worth compiling for
    with device_settings(device), eager, task.trainer.precision_plugin.forward_context():
        for batch in data.eval_loader(data.splits.val, first=MAX_PREDICTIONS):
            kind, real = type(batch), batch.row >= 0
            batch = batch._make(None if part is None else part.to(device) for part in batch)
            found = (*batch, task.predict(task(batch)), task.target(batch))
            parts.append([None if part is None else part.to("cpu")[real.cpu()] for part in found])
    columns = [None if column[0] is None else joined(column) for column in zip(*parts, strict=True)]
    *fields, predictions, targets = columns
    return kind._make(fields), predictions, targets  # type: ignore[return-value]
