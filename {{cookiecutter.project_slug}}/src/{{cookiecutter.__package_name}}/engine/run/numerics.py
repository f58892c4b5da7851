"""What decides the bits of a result beside source, configuration, data and versions."""

import os
from typing import Any

import lightning as L
import torch

from .. import nvml

MATH = ("CUBLAS_", "CUDNN_", "NCCL_", "NVIDIA_TF32", "OMP_", "MKL_", "ATEN_")
TELLING = (*MATH, "PYTORCH_", "TORCHINDUCTOR_", "TORCH_ALLOW_TF32", "TRITON_")
NOT_TELLING = {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "PYTORCH_ALLOC_CONF"}


class StepSeed(L.Callback):
    """Seed what is random inside the network (dropout) from the run's seed, step and rank."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        step = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        seed = (self.seed * 1_000_003 + step) * 4096 + trainer.global_rank
        device = pl_module.device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        torch.default_generator.manual_seed(seed)


def prefer_determinism(wanted: bool | str | None) -> None:
    """Prepare what Trainer(deterministic=...) leaves out."""
    # On an H200 the whole costs ResNet-18 at batch 128 2.4% and ResNet-50 at 256 0.1%.
    if wanted:
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # no kernel by the clock
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def numerics() -> dict[str, Any]:
    """Return torch's switches, the CPU's instructions, driver, environment and container image."""
    telling = {key for key in os.environ if key.startswith(TELLING)} - NOT_TELLING
    name, digest = os.environ.get("BUILT_FROM"), os.environ.get("BUILT_FROM_ID")
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "driver": nvml.driver_version(),
        "nccl": torch.cuda.is_available() and torch.cuda.nccl.version(),  # type: ignore[attr-defined]
        "environment": {key: os.environ[key] for key in sorted(telling)},
        "image": {"built_from": name, "digest": digest or None} if name else None,
    }
