"""What affects the bits of a result, besides source, configuration, data and versions."""

import os
from typing import Any

import lightning as L
import torch

from .. import nvml

MATH = ("CUBLAS_", "CUDNN_", "NCCL_", "NVIDIA_TF32", "OMP_", "MKL_", "ATEN_")
AFFECTS_RESULT = (*MATH, "PYTORCH_", "TORCHINDUCTOR_", "TORCH_ALLOW_TF32", "TRITON_")
IGNORED = {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "PYTORCH_ALLOC_CONF"}
IGNORED |= {"OMP_WAIT_POLICY"}


class StepSeed(L.Callback):
    """Seed randomness inside the network (dropout) from the run's seed and the micro-batch.

    Micro-batches are counted over all devices, so that those of a step draw the same numbers on any
    number of devices. `by_rank` counts them on each device, as step version 1 did (decisions.py).
    """

    def __init__(self, seed: int, by_rank: bool = False) -> None:
        self.seed, self.by_rank = seed, by_rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        count, rank = trainer.fit_loop.epoch_loop.batch_progress.total.ready, trainer.global_rank
        if not self.by_rank:
            count, rank = self._among_all(trainer, count), 0
        seed = (self.seed * 1_000_003 + count) * 4096 + rank
        device = pl_module.device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        torch.default_generator.manual_seed(seed)

    @staticmethod
    def _among_all(trainer: L.Trainer, count: int) -> int:
        """Return the number among all devices' micro-batches, from 1, of this device's number."""
        accumulate = trainer.accumulate_grad_batches
        step, part = divmod(count - 1, accumulate)
        return (step * trainer.world_size + trainer.global_rank) * accumulate + part + 1


def prefer_determinism(wanted: bool | str | None) -> None:
    """Set the switches that Trainer(deterministic=...) does not, or sets too late.

    The first use of cuBLAS in a process decides how much memory it works with.
    """
    # Determinism costs on an H200: 2.4% for ResNet-18 at batch 128, 0.1% for ResNet-50 at 256.
    if wanted:
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # no kernel chosen by timing
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as Lightning does
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def numerics() -> dict[str, Any]:
    """Return torch's switches, the CPU's instructions, driver, environment and container image."""
    relevant = {key for key in os.environ if key.startswith(AFFECTS_RESULT)} - IGNORED
    name, digest = os.environ.get("BUILT_FROM"), os.environ.get("BUILT_FROM_ID")
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "driver": nvml.driver_version(),
        "nccl": torch.cuda.is_available() and torch.cuda.nccl.version(),  # type: ignore[attr-defined]
        "environment": {key: os.environ[key] for key in sorted(relevant)},
        "image": {"built_from": name, "digest": digest or None} if name else None,
    }
