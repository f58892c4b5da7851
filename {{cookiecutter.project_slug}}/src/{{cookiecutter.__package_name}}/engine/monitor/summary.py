"""The summaries of a run: its results for the record, and what the terminal shows."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from ..contract import Best, Facts
from ..decisions import AS_BEFORE, AS_CONFIGURED, Decision, Decisions, get
from ..json_text import to_json
from ..model.class_totals import are_probabilities
from ..model.objectives import joined_labels
from ..paths import shown
from ..plurals import plural
from ..run.checkpoint import RunCheckpoint
from ..run.checkpoint_files import write_atomically
from ..run.metrics import read_metrics
from ..run.runs import is_repeat
from ..short_floats import short_list
from .gpu import GpuUsage
from .progress import Throughput
from .reading import Reading

PICTURES = {"curves.png": "learning curves", "predictions.png": "predictions"}


def results_of(trainer: L.Trainer) -> dict[str, Any]:
    """Return a finished run's steps, speed, GPU usage, and its last and best validation."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found: dict[type, Any] = {type(callback): callback for callback in callbacks}
    rows = read_metrics(Path(trainer.default_root_dir) / "metrics.csv")  # of all starts
    task: Any = trainer.lightning_module
    return {
        "steps": max(found[RunCheckpoint].saved_step, 0),  # -1 before the first
        "rows_per_second": found[Throughput].rows_per_second,
        "seconds_to_first_step": found[Throughput].seconds_to_first_step,
        **_reading(found.get(Reading)),
        "gpu": found[GpuUsage].summary(),
        "seconds_saving": round(found[RunCheckpoint].seconds_saving, 2),
        f"best {task.best.metric}": found[RunCheckpoint].best_so_far.score,
        **{name: row[name] for row in rows for name in row if name.startswith("val/")},
    }


def _reading(measured: Reading | None) -> dict[str, Any]:
    """Return the speeds of reading and training in rows/s, if rows are read and it took steps."""
    return {"reading": measured.found} if measured and measured.found else {}


def print_start(
    record: dict[str, Any], facts: Facts, decisions: Decisions, device: str, in_use: str
) -> None:
    """Print the decisions about a run before its first step."""
    counts = ", ".join(f"{n:,} {name}" for name, n in facts.rows.items() if n)
    processes = decisions.devices.value * decisions.num_nodes.value
    rows = {
        "data": f"{counts} {facts.unit}",
        "batch": f"{decisions.global_batch_size.value} {facts.unit} a step{_parts(decisions)}",
        **_measured(decisions.batch_size),
        **_learning_rate((record["resumes"] or [record])[-1]["config"], decisions),
        "device": f"{processes} x {device}" if processes > 1 else device,
        **({"GPUs in use": in_use} if in_use else {}),
        "precision": _reason(decisions.precision),
        "torch.compile": _reason(decisions.compile),
        "loader": _reason(decisions.loader),
        **({"wandb": _reason(decisions.wandb)} if decisions.wandb.value != "off" else {}),
    }
    if record["resumes"]:
        rows["resumes"] = f"after step {record['resumes'][-1]['from_step']}"
    _print_block(f"{record['recipe']}, seed {record['seed']}", rows)
    for remark in facts.remarks:
        print(f"note: {remark}\n", flush=True)


def _measured(batch_size: Decision) -> dict[str, str]:
    """Return the row of a batch size that nobody has set."""
    if batch_size.why in (AS_CONFIGURED, AS_BEFORE):
        return {}
    return {"batch size": _reason(batch_size)}


def _parts(decisions: Decisions) -> str:
    """Return how a step's batch is divided, such as ': 2 devices x 64, 4 times'."""
    processes = decisions.devices.value * decisions.num_nodes.value
    times = decisions.accumulate_grad_batches.value
    if processes * times == 1:
        return ""
    devices = f"{processes} devices x " if processes > 1 else ""
    return f": {devices}{decisions.batch_size.value}" + (f", {times} times" if times > 1 else "")


def _learning_rate(config: Any, decisions: Decisions) -> dict[str, str]:
    """Return the row of the learning rate, if the task has one. Nothing scales it."""
    rate = get(config, "model.learning_rate")
    if not isinstance(rate, int | float):
        return {}
    processes = decisions.devices.value * decisions.num_nodes.value
    grew = processes > 1 and get(config, "data.global_batch_size") is None
    scaled = f"; scaled to {processes} devices it would be {rate * processes:g}"
    return {"learning rate": f"{rate:g}{scaled if grew else ''}"}


def print_fit(
    folder: Path,
    record: dict[str, Any],
    decisions: Decisions,
    best: Best,
    best_epoch: int,
    facts: Facts,
    pictures: list[str],
) -> None:
    """Print the results of a training run, where its files are and what to try next.

    `best_epoch` counts from 1.
    """
    results = record["results"]
    score, speed = results[f"best {best.metric}"], results["rows_per_second"]
    heat = "{busy_percent}% busy, up to {temperature_celsius} °C and {memory_gib} GiB"
    split, _, name = best.metric.partition("/")
    rows = {
        f"{'validation' if split == 'val' else split} {name}": format_score(score, best)
        + ("" if score is None else f" (best: epoch {best_epoch})"),
        "speed": "too short to measure" if speed is None else f"{speed:,.0f} {facts.unit}/s",
        **({"GPU": heat.format(**results["gpu"])} if results["gpu"] else {}),
        "torch.compile": _reason(decisions.compile),
        **_ended_early(record),
        "run folder": shown(folder),
        **{PICTURES.get(name, Path(name).stem): shown(folder / name) for name in pictures},
        **_next(record["command"], facts),
    }
    steps = f"{results['steps']} {plural(results['steps'], 'step')}"
    took = f"{steps} in {record['seconds']['total']:.0f} s"
    _print_block(f"{record['recipe']}: {took}", rows)


def _ended_early(record: dict[str, Any]) -> dict[str, str]:
    """Return the row that says why a run ended before its last epoch, if it did."""
    if not record["reason"]:
        return {}
    resumable = " · to go on: make resume" if record["state"] == "interrupted" else ""
    return {"ended early": record["reason"] + resumable}


def _reason(decision: Decision) -> str:
    return f"{decision.value or 'off'}: {decision.why}"


def _next(command: list[str], facts: Facts) -> dict[str, str]:
    """Return the row that says what to do next; none if reproduce repeats a run."""
    if is_repeat(command):
        return {}
    test = "make evaluate; or " if facts.rows.get("test") else ""
    return {"next": f"{test}change networks.py and train again"}


def format_score(score: float | None, best: Best) -> str:
    """Return a value of the best metric in the format that the task sets."""
    return "not measured" if score is None else format(score, best.format)


def print_scores(folder: Path, scores: dict[str, float], best: Best, files: list[Path]) -> None:
    """Print the scores of an evaluation, and where its files are."""
    quantity = best.metric.partition("/")[2]
    rows = {
        name: format(value, best.format if name.partition("/")[2] == quantity else ".4f")
        for name, value in scores.items()
    }
    rows |= {path.name: shown(path) for path in files}
    _print_block(f"evaluated {shown(folder)}", rows | {"record": shown(folder / "run.json")})


def write_predictions(
    batches: Any, facts: Facts, columns: Mapping[str, Sequence[Any]], folder: Path
) -> Path:
    """Write (row, target, prediction) of all batches to predictions.csv, and return its path.

    The `columns` say which row of the split each is, such as its path. They have all rows of it.

    For class probabilities, the prediction is the most probable class and its probability; if a row
    may have several, those above one half, and the probability of each class. For anything else, it
    is its numbers as JSON. The file appears whole or not at all.
    """
    path, batches, text = folder / "predictions.csv", list(batches), io.StringIO()
    _, targets, predictions = batches[0]
    named = are_probabilities(predictions, targets, facts)
    classes, several = facts.classes if named else (), facts.several
    writer = csv.writer(text)
    if classes and several:
        names = [f"p_{name}" for name in classes]
        writer.writerow(["index", *columns, "labels", "prediction", *names])
    elif classes:
        writer.writerow(["index", *columns, "label", "prediction", "probability"])
    else:
        writer.writerow(["index", *columns, "target", "prediction"])
    for row, targets, predictions in batches:
        for i, index in enumerate(row.tolist()):
            target = None if targets is None else targets[i]
            place = [column[index] for column in columns.values()]
            writer.writerow([index, *place, *_cells(target, predictions[i], classes, several)])
    write_atomically(path, text.getvalue())
    return path


def _cells(
    target: Tensor | None, prediction: Tensor, classes: tuple[str, ...], several: bool
) -> list[Any]:
    if not classes:
        known = "" if target is None else to_json(short_list(target))
        return [known, to_json(short_list(prediction))]
    if several:
        known = "" if target is None else joined_labels(target.tolist(), classes)
        shares = prediction.tolist()
        return [known, joined_labels(shares, classes), *(f"{share:.6f}" for share in shares)]
    probability, predicted = prediction.max(0)
    known = "" if target is None else classes[int(target)]
    return [known, classes[int(predicted)], f"{float(probability):.6f}"]


def print_predicted(place: str, folder: Path, rows: dict[str, str]) -> None:
    """Print what was predicted by which run, and where the table is."""
    _print_block(f"predictions of {place}", rows | {"run": shown(folder)})


def _print_block(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    lines = [title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())]
    print("\n" + "\n".join(lines) + "\n", flush=True)
