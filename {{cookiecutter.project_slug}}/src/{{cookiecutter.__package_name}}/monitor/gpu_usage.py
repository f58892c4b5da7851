"""gpu.csv: how busy, how hot and how full the GPUs were, and the summary of it for the record."""

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..nvml import GpuState, gpu_state

SECONDS_BETWEEN = 1.0
COLUMNS = ("time", "step", "gpu", "busy_percent", "temperature_celsius", "memory_gib")


class GpuUsage(L.Callback):
    """Ask the driver about this process's GPU once a second; it costs no synchronization."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gpu.csv"
        self.asked_at = 0.0
        self.states: list[GpuState] = []
        self.uuid: str | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        if pl_module.device.type == "cuda" and trainer.is_global_zero:
            self.uuid = str(torch.cuda.get_device_properties(pl_module.device).uuid)
            if not self.path.exists():
                self._write(COLUMNS)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.uuid is None or time.monotonic() - self.asked_at < SECONDS_BETWEEN:
            return
        self.asked_at = time.monotonic()
        gpu = gpu_state(self.uuid)
        if gpu is not None:
            self.states.append(gpu)
            numbers = gpu.busy, gpu.temperature, f"{gpu.used / 2**30:.2f}"
            self._write((f"{time.time():.1f}", trainer.global_step, gpu.index, *numbers))

    def summary(self) -> dict[str, Any] | None:
        """Return how busy the GPU was in percent (mean), its highest temperature and memory."""
        if not self.states:
            return None
        return {
            "busy_percent": round(sum(gpu.busy for gpu in self.states) / len(self.states)),
            "temperature_celsius": max(gpu.temperature for gpu in self.states),
            "memory_gib": round(max(gpu.used for gpu in self.states) / 2**30, 1),
        }

    def _write(self, row: tuple) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
