"""The callbacks that every run has."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from ..decisions import STEP_GRAPHS, Decisions
from ..fast.compile_messages import Compiling
from ..fast.step_graph import StepGraph
from ..monitor.gpu import GpuUsage, OutOfMemory
from ..monitor.progress import Progress, Throughput
from ..monitor.reading import Reading
from ..run.heartbeat import Heartbeat
from ..run.numerics import StepSeed
from ..task import loss_and_outputs


def callbacks_of(
    decided: Decisions, folder: Path, seed: int, shows_progress: bool, fits: bool, timeout: float
) -> list[L.Callback]:
    """Return the callbacks of a run, but for its checkpoints.

    Args:
        folder: the run's.
        seed: of the random numbers that the steps draw.
        shows_progress: whether they show a line of progress.
        fits: whether the run trains. Then several processes end if one makes no progress for
            `timeout` seconds.
    """
    return [
        *([Progress()] if shows_progress else []),
        Throughput(),
        *([Reading()] if _is_read_by_workers(decided) else []),
        GpuUsage(folder),
        OutOfMemory(),
        StepSeed(seed, by_rank=decided.step_version.value == 1),
        Compiling(),
        *([StepGraph(loss_and_outputs)] if decided.compile.value in STEP_GRAPHS else []),
        *([Heartbeat(folder, timeout)] if fits and decided.processes > 1 else []),
    ]


def _is_read_by_workers(decided: Decisions) -> bool:
    """Return whether training rows are ready when workers have read them."""
    on_gpu = decided.decoder.value == "gpu"  # which then has work left
    timed = decided.accelerator.value in ("cpu", "cuda")
    return decided.loader.value == "streaming" and timed and not on_gpu


def has_progress_bar(callbacks: Any) -> bool:
    """Return whether a configuration's callbacks, a list or one, have a progress bar."""
    each = callbacks if isinstance(callbacks, list) else [callbacks]
    return any(isinstance(callback, ProgressBar) for callback in each)
