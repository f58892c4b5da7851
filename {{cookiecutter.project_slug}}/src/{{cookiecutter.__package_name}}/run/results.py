"""What a training run reached, for its record."""

from typing import Any

import lightning as L

from .callbacks import Throughput
from .checkpoint import RunCheckpoint
from .gpu_usage import GpuUsage


def results_of(trainer: L.Trainer) -> dict[str, Any]:
    """Return steps, speed, GPU usage, and the last and the best validation of a run that ended."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found: dict[type, Any] = {type(callback): callback for callback in callbacks}
    best = found[RunCheckpoint].best_model_score
    metrics = trainer.callback_metrics
    return {
        "steps": trainer.global_step,
        "images_per_second": found[Throughput].images_per_second,
        "gpu": found[GpuUsage].summary(),
        "best val/accuracy": None if best is None else float(best),
        **{name: float(metrics[name]) for name in metrics if name.startswith("val/")},
    }
