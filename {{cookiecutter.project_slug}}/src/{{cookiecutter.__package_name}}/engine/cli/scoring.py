"""What validate, test and predict of a run's data write and print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..contract import Facts
from ..model.class_totals import are_measurable
from ..monitor import class_report, summary
from ..paths import shown
from ..ranks import is_rank_zero
from ..run.record import RunRecord
from ..task import Task

Columns = Mapping[str, Sequence[Any]]


def score(
    stage: str,
    trainer: L.Trainer,
    task: Task,
    facts: Facts,
    columns: Columns,
    folder: Path,
    **kwargs: Any,
) -> None:
    """Score a run by `stage`, validate or test: record and print it, and write what it measured.

    The `columns` say which rows the test split has.
    """
    task.measured = facts
    scores = getattr(trainer, stage)(**kwargs, verbose=False)[0]
    files: list[Path] = []
    if task.evaluated is not None:
        split = "val" if stage == "validate" else stage
        predictions, targets = task.evaluated
        if are_measurable(predictions, targets, facts):
            measure = class_report.measure_labels if facts.several else class_report.measure
            found = measure(predictions, targets)
            more = {f"{split}/{name}": value for name, value in found.scores.items()}
            scores |= {name: value for name, value in more.items() if name not in scores}
            files = class_report.write(found, facts, folder, split)
        if stage == "test" and is_rank_zero():
            rows = torch.arange(len(targets)), targets, predictions
            files.append(summary.write_predictions([rows], facts, columns, folder))
    RunRecord(folder).update(results=scores)
    summary.print_scores(folder, scores, task.best, files)


def predict_test_split(
    trainer: L.Trainer, facts: Facts, columns: Columns, folder: Path, **kwargs: Any
) -> None:
    """Write the predictions for every row of the test split to predictions.csv."""
    batches = trainer.predict(**kwargs, return_predictions=True)
    file = summary.write_predictions(batches, facts, columns, folder)
    summary.print_predicted(f"the test {facts.unit}", folder, {"file": shown(file)})
