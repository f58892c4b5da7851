"""The callbacks that every run has: added in code, for a recipe's list would replace them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback

from ..run.checkpoint import RunCheckpoint
from ..run.metrics import ContinueMetrics
from ..run.numerics import StepSeed
from ..run.step_graph import StepGraph
from .gpu_usage import GpuUsage
from .memory import OutOfMemory
from .progress import Progress, Throughput


def essential_callbacks(
    config: Any, folder: Path, checkpoint: RunCheckpoint, begins: Callable[[], None]
) -> list[L.Callback]:
    """Return them for a run; `begins` is called before the first step."""
    return [
        *([Progress()] if config.trainer.enable_progress_bar is not False else []),
        Throughput(),
        GpuUsage(folder),
        OutOfMemory(folder),
        StepSeed(config.seed_everything),
        ContinueMetrics(),
        LambdaCallback(on_train_start=lambda *_: begins()),
        *([StepGraph()] if config.model.compile == "step-graph" else []),
        checkpoint,
    ]
