"""A run's GPU: its utilization and memory (gpu.csv), and a report when its memory runs out.

The report is written while all tensors are still in GPU memory.
"""

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ..nvml import GpuState, gpu_state, other_users
from ..ranks import is_rank_zero

GIB = 2**30
SECONDS_BETWEEN = 1.0
COLUMNS = ("time", "step", "gpu", "busy_percent", "temperature_celsius", "memory_gib")


class GpuUsage(L.Callback):
    """Records the state of this process's GPU once a second, without synchronizing with it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.asked_at = folder / "gpu.csv", 0.0
        self.states: list[GpuState] = []
        self.uuid: str | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        if pl_module.device.type == "cuda" and is_rank_zero():
            self.uuid = str(torch.cuda.get_device_properties(pl_module.device).uuid)
            if not self.path.exists():
                self._write(COLUMNS)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.uuid is None or time.monotonic() - self.asked_at < SECONDS_BETWEEN:
            return
        self.asked_at = time.monotonic()
        if gpu := gpu_state(self.uuid):
            self.states.append(gpu)
            numbers = gpu.busy, gpu.temperature, f"{gpu.used / GIB:.2f}"
            self._write((f"{time.time():.1f}", trainer.global_step, gpu.index, *numbers))

    def summary(self) -> dict[str, Any] | None:
        """Return the mean utilization in percent, the highest temperature in °C and memory in GiB.

        It is None if nothing was recorded.
        """
        if not self.states:
            return None
        return {
            "busy_percent": round(sum(gpu.busy for gpu in self.states) / len(self.states)),
            "temperature_celsius": max(gpu.temperature for gpu in self.states),
            "memory_gib": round(max(gpu.used for gpu in self.states) / GIB, 1),
        }

    def _write(self, row: tuple) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def out_of_memory(error: BaseException | None) -> BaseException | None:
    """Return the error in an exception's chain that reports a lack of GPU memory, or None."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error):
            break
        error = error.__cause__ or error.__context__
    return error


class OutOfMemory(L.Callback):
    """Adds a report to an out-of-memory exception; saves it with the allocator's as memory.txt."""

    def on_exception(self, trainer, pl_module, exception) -> None:
        cause = out_of_memory(exception)
        if cause is None:
            return
        data, device = trainer.datamodule, trainer.strategy.root_device
        size, devices = data.batch_size, trainer.world_size
        step = size * devices * trainer.accumulate_grad_batches
        evaluated = data.eval_batch_size if trainer.evaluating else None
        recomputes = pl_module.flags.activation_checkpointing
        advice = advise(size, step, devices, evaluated, str(trainer.precision), recomputes)
        rank = f".rank-{trainer.global_rank}" if trainer.global_rank else ""
        file, on_gpu = Path(trainer.default_root_dir, f"memory{rank}.txt"), device.type == "cuda"
        sentences = str(cause).split(". ")
        width, held = max(map(len, advice)), _memory_by_use(trainer, device) if on_gpu else {}
        lines = [
            f"out of GPU memory: {'. '.join(sentences[1:3] or sentences)}.",
            *(f"  {gib:8.2f} GiB  {name}" for name, gib in held.items()),
            'Try, in this order (with make: ARGS="..."):',
            *(f"  {flags:<{width}}  {what}" for flags, what in advice.items()),
            f"The allocator's report: {file}",
        ]
        report = "\n".join(lines)
        summary = torch.cuda.memory_summary(device) if on_gpu else "The device is not a GPU.\n"
        file.write_text(f"{report}\n\n{summary}")
        exception.add_note(report)


def advise(
    batch: int, step: int, devices: int, eval_batch: int | None, precision: str, checkpointing: bool
) -> dict[str, str]:
    """Return the flags that reduce a run's memory, the best first, each with its effect.

    Args:
        batch: rows that one device computes at once.
        step: rows in a step of all devices; the flags don't change it.
        devices: number of devices.
        eval_batch: evaluation's batch size if evaluation failed, else None.
        precision: the Trainer's precision.
        checkpointing: whether activations are already recomputed.
    """
    advice, per_device = {}, step // devices
    fitting = [size for size in range(1, batch // 2 + 1) if per_device % size == 0]
    if eval_batch is not None:
        advice[f"--data.eval_batch_size {max(eval_batch // 2, 1)}"] = "evaluates fewer rows at once"
    elif fitting:
        flags = f"--data.batch_size {fitting[-1]} --data.global_batch_size {step}"
        parts = per_device // fitting[-1]
        advice[flags] = f"the same step in {parts} smaller batches a device; halve again if needed"
    if precision.startswith("32"):
        advice["--trainer.precision bf16-mixed"] = "halves the memory of activations"
    if eval_batch is None and not checkpointing:
        advice["--model.activation_checkpointing true"] = "recomputes activations: a quarter slower"
    variable = "PYTORCH_ALLOC_CONF=expandable_segments:True"
    return advice | {variable: "set before the command: helps if much is reserved but not used"}


def _memory_by_use(trainer: L.Trainer, device: torch.device) -> dict[str, float]:
    """Return the GPU memory in use, in GiB, by kind of tensor and by other process."""
    weights = list(trainer.lightning_module.parameters())
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    loaders = [trainer.train_dataloader, trainer.val_dataloaders]
    kept = sum(getattr(loader, "nbytes_on_device", 0) for loader in loaders)
    kinds: dict[str, list] = {
        "weights": weights,
        "gradients": [weight.grad for weight in weights],
        "the optimizer's state": [value for state in states for value in state.values()],
    }
    held = {
        name: sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor) and t.is_cuda)
        for name, tensors in kinds.items()
    }
    held["data kept on the GPU"] = kept
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    held["activations and the rest"] = allocated - sum(held.values())
    held["reserved, not used"] = reserved - allocated
    if gpu := gpu_state(str(torch.cuda.get_device_properties(device).uuid)):
        held |= other_users(gpu, own_bytes=reserved)
    return {name: size / GIB for name, size in held.items()}
