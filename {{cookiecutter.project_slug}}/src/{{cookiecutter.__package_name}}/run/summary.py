"""What is said and drawn when a run ends."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ..data.datamodule import ImageData
from ..data.resident import PADDING_LABEL, ResidentEvalLoader
from ..data.sources import Images
from .folder import shown
from .pictures import draw_curves, draw_predictions

MOST_PREDICTIONS = 500  # validation images that are looked at for the picture


def draw_pictures(folder: Path, model: L.LightningModule, data: ImageData) -> None:
    """Draw curves.png, and predictions.png from the validation images, into the run's folder."""
    draw_curves(folder / "metrics.csv").savefig(folder / "curves.png", dpi=110)
    val, classes = data.splits.val, data.splits.classes
    some = Images(val.pixels[:MOST_PREDICTIONS], val.labels[:MOST_PREDICTIONS])
    probabilities = predict(model, some, data.eval_batch_size)
    figure = draw_predictions(some.pixels, some.labels, probabilities, classes)
    figure.savefig(folder / "predictions.png", dpi=110)


@torch.inference_mode()
def predict(model: L.LightningModule, images: Images, batch_size: int) -> Tensor:
    """Return the probabilities (n, classes) of the images, in order, on the CPU."""
    device = model.trainer.strategy.root_device  # the Trainer has left the weights on the CPU
    model.to(device).eval()
    parts = []
    eager = torch.compiler.set_stance("force_eager")  # a few images do not pay for compiling anew
    with eager, model.trainer.precision_plugin.forward_context():
        for batch in ResidentEvalLoader(images, batch_size, device):
            probabilities = model(batch.images).float().softmax(1)
            parts.append(probabilities[batch.labels != PADDING_LABEL].cpu())
    return torch.cat(parts)


def say_start(record: dict[str, Any], decisions: dict[str, str]) -> None:
    """Print what a run was decided to be, before its first step."""
    data = record["data"]
    counts = ", ".join(f"{n:,} {name}" for name, n in data["images"].items())
    _block(
        f"{record['recipe']}, seed {record['seed']}",
        {
            "device": decisions["device"],
            "precision": decisions["precision"],
            "data": f"{counts} images, {data['loader']} on the device as uint8",
            **{name: decisions[name] for name in ("wandb",) if name in decisions},
        },
    )


def say_fit(folder: Path, record: dict[str, Any]) -> None:
    """Print what a training run reached, where everything lies and what to try next."""
    results, compiled = record["results"], record["compile"]
    best, speed = results.get("best val/accuracy"), results["images_per_second"]
    mode = compiled["mode"] or "off"
    _block(
        f"{record['recipe']}: {results['steps']} steps in {record['seconds']['total']:.0f} s",
        {
            "validation accuracy": "not measured" if best is None else f"{best:.2%}",
            "speed": "too short to tell" if speed is None else f"{speed:,.0f} images/s",
            "torch.compile": f"{mode}: {compiled['why']}",
            "run folder": shown(folder),
            "how it learned": shown(folder / "curves.png"),
            "its mistakes": shown(folder / "predictions.png"),
            "next": "make evaluate (the test images, once) · change networks.py · make train again",
        },
    )


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
