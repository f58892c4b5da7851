"""What the best weights of a finished run say of some rows, and the pictures that show it."""

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

MOST_PREDICTIONS = 500  # validation rows that are looked at for pictures


@dataclass(frozen=True)
class FinishedRun:
    """What there is to draw: logged rows, and the first validation rows with their predictions.

    `batch` holds those rows, `predictions` and `targets` (n, …) what the task makes of them; all
    tensors are on the CPU.
    """

    metrics: list[dict[str, Any]]
    best: Best
    facts: Facts
    batch: Any
    predictions: Tensor
    targets: Tensor | None


Draw = Callable[[FinishedRun], dict[str, Figure]]  # file name -> picture


def draw_pictures(
    folder: Path, task: Task, data: Data, facts: Facts, draw: Draw | None
) -> list[str]:
    """Draw the curves and what the project draws, by the best weights; return the files' names."""
    best = folder / "checkpoints" / BEST
    if best.exists():
        task.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    batch, predictions, targets = predict(task, data)
    rows = read_metrics(folder / "metrics.csv")
    run = FinishedRun(rows, task.best, facts, batch, predictions, targets)
    pictures = {"curves.png": draw_curves(rows, task.best)} | (draw(run) if draw else {})
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=110)
    return list(pictures)


@torch.inference_mode()
def predict(task: Any, data: Data) -> tuple[Any, Tensor, Tensor | None]:
    """Return the first validation rows as one batch, with predictions and targets, on the CPU."""
    device = task.trainer.strategy.root_device  # the Trainer has left the weights on the CPU
    task.to(device).eval()
    parts = []
    eager = torch.compiler.set_stance("force_eager")  # a few rows do not pay for compiling anew
    with device_settings(device), eager, task.trainer.precision_plugin.forward_context():
        for batch in data.eval_loader(data.splits.val, first=MOST_PREDICTIONS):
            kind, real = type(batch), batch.row >= 0
            batch = batch._make(None if part is None else part.to(device) for part in batch)
            made = (*batch, task.predict(task(batch)), task.target(batch))
            parts.append([None if part is None else part.to("cpu")[real.cpu()] for part in made])
    columns = [None if column[0] is None else joined(column) for column in zip(*parts, strict=True)]
    *fields, predictions, targets = columns
    return kind._make(fields), predictions, targets  # type: ignore[return-value]
