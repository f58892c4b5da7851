"""The callbacks that every run has: added in code, for a recipe's list would replace them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback

from .callbacks import Progress, StepSeed, Throughput
from .checkpoint import RunCheckpoint
from .compiling import Compiling
from .gpu_usage import GpuUsage
from .memory import OutOfMemory
from .step_graph import StepGraph
from .tracking import ContinueMetrics


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
        *([Compiling()] if config.model.compile is not False else []),
        *([StepGraph()] if config.model.compile == "step-graph" else []),
        checkpoint,
    ]
