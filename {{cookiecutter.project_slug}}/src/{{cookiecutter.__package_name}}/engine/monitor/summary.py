"""What is recorded, said and drawn of a run."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ...pictures import draw_curves, draw_predictions
from ..data.batch import PADDING_LABEL, Batch
from ..images.module import ImageData
from ..run.checkpoint import RunCheckpoint
from ..run.checkpoint_files import BEST
from ..run.folder import shown
from ..run.metrics import read_metrics
from .gpu import GpuUsage
from .progress import Throughput

MOST_PREDICTIONS = 500  # validation images that are looked at for the picture


def draw_pictures(folder: Path, model: L.LightningModule, data: ImageData) -> None:
    """Draw curves.png, and predictions.png by the best weights, into the run's folder."""
    best = folder / "checkpoints" / BEST
    if best.exists():
        model.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    draw_curves(folder / "metrics.csv").savefig(folder / "curves.png", dpi=110)
    seen = predict(model, data.eval_dataloader(data.splits.val, first=MOST_PREDICTIONS))
    draw_predictions(*seen, data.splits.classes).savefig(folder / "predictions.png", dpi=110)


@torch.inference_mode()
def predict(model: Any, batches: Iterable[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    """Return, on the CPU, pixels (n, height, width, 3), labels (n,), probabilities (n, classes)."""
    device = model.trainer.strategy.root_device  # the Trainer has left the weights on the CPU
    model.to(device).eval()
    parts = []
    eager = torch.compiler.set_stance("force_eager")  # a few images do not pay for compiling anew
    with eager, model.trainer.precision_plugin.forward_context():
        for batch in batches:
            batch = Batch(*(part.to(device) for part in batch[:3]))
            _, labels, probabilities = model.predict_step(batch, 0)
            pixels = batch.images[batch.labels != PADDING_LABEL].permute(0, 2, 3, 1)
            parts.append([part.cpu() for part in (pixels, labels, probabilities)])
    pixels, labels, probabilities = map(torch.cat, zip(*parts, strict=True))
    return pixels, labels, probabilities


def results_of(trainer: L.Trainer) -> dict[str, Any]:
    """Return steps, speed, GPU usage, and the last and the best validation of a run that ended."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found: dict[type, Any] = {type(callback): callback for callback in callbacks}
    rows = read_metrics(Path(trainer.default_root_dir) / "metrics.csv")  # also before a resume
    return {
        "steps": trainer.global_step,
        "images_per_second": found[Throughput].images_per_second,
        "seconds_to_first_step": found[Throughput].seconds_to_first_step,
        "gpu": found[GpuUsage].summary(),
        "seconds_saving": round(found[RunCheckpoint].seconds_saving, 2),
        "best val/accuracy": found[RunCheckpoint].best_score,
        **{name: row[name] for row in rows for name in row if name.startswith("val/")},
    }


def say_start(record: dict[str, Any], decisions: dict[str, str]) -> None:
    """Print what a run was decided to be, before its first step."""
    data = record["data"]
    counts = ", ".join(f"{n:,} {name}" for name, n in data["images"].items() if n)
    batch, whole = (record["config"]["data"][key] for key in ("batch_size", "global_batch_size"))
    parts = f": {whole // batch} x {batch}" if whole > batch else ""
    rows = {
        "data": f"{counts} images, {data['loader']}",
        "batch": f"{whole} images a step{parts}",
        **decisions,
    }
    if record["resumes"]:
        rows["goes on"] = f"after step {record['resumes'][-1]['from_step']}"
    _block(f"{record['recipe']}, seed {record['seed']}", rows)
    for remark in data["remarks"]:
        print(f"remark: {remark}\n", flush=True)


def say_fit(folder: Path, record: dict[str, Any]) -> None:
    """Print what a training run reached, where everything lies and what to try next."""
    results, compiled = record["results"], record["compile"]
    best, speed, gpu = (results[k] for k in ("best val/accuracy", "images_per_second", "gpu"))
    heat = "{busy_percent}% busy, up to {temperature_celsius} °C and {memory_gib} GiB"
    rows = {
        "validation accuracy": "not measured" if best is None else f"{best:.2%}",
        "speed": "too short to tell" if speed is None else f"{speed:,.0f} images/s",
        **({"GPU": heat.format(**gpu)} if gpu else {}),
        "torch.compile": f"{compiled['mode'] or 'off'}: {compiled['why']}",
        "run folder": shown(folder),
        "how it learned": shown(folder / "curves.png"),
        "its mistakes": shown(folder / "predictions.png"),
        "next": "make evaluate (the test images, once) · change networks.py · make train again",
    }
    took = f"{results['steps']} steps in {record['seconds']['total']:.0f} s"
    _block(f"{record['recipe']}: {took}", rows)


def say_scores(folder: Path, scores: dict[str, float]) -> None:
    """Print the scores of an evaluation."""
    rows = {
        name: f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4f}"
        for name, value in scores.items()
    }
    _block(f"evaluated {shown(folder)}", rows | {"record": shown(folder / "run.json")})


def say_predictions(batches: Any, classes: tuple[str, ...], folder: Path) -> None:
    """Write (index, label, probabilities) of all batches as predictions.csv, and say where."""
    path = folder / "predictions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "label", "prediction", "probability"])
        for index, label, probabilities in batches:
            sure, predicted = probabilities.max(1)
            for i, truth, guess, p in zip(index, label, predicted, sure, strict=True):
                writer.writerow([int(i), classes[truth], classes[guess], f"{float(p):.6f}"])
    _block(f"predictions of the test images of {shown(folder)}", {"file": shown(path)})


def _block(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    lines = [title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())]
    print("\n" + "\n".join(lines) + "\n", flush=True)
