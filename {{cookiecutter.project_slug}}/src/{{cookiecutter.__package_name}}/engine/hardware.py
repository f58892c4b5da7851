"""Detect this machine's hardware, once per process. decisions.py decides what follows from it."""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: its name, compute capability such as (9, 0), and memory in GiB."""

    name: str
    capability: tuple[int, int]
    memory_gib: float


@dataclass(frozen=True)
class Machine:
    """The hardware that training can use.

    `cores` counts those that this process may use; `compiler` is true if a C compiler and Python's
    headers are installed, as torch.compile needs.
    """

    system: str
    cpu: str
    cores: int
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    compiler: bool = True
    threads: int | None = None  # OMP_NUM_THREADS


@cache
def this_machine() -> Machine:
    """Return this machine: cores within affinity and quota, and the GPUs that torch can use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = map(torch.cuda.get_device_properties, range(count))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return Machine(
        system=platform.system(),
        cpu=_cpu_name(),
        cores=usable_cores(os.cpu_count() or 1, affinity, _cpu_quota(Path("/sys/fs/cgroup"))),
        gpus=tuple(Gpu(p.name, (p.major, p.minor), p.total_memory / 2**30) for p in properties),
        mps=torch.backends.mps.is_available(),
        compiler=_has_compiler(),
        threads=int(threads) if threads.isdecimal() else None,
    )


def why_no_gpu() -> str:
    """Return what torch or the driver say about a machine on which torch finds no GPU."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES is '{chosen}'"
    if (program := shutil.which("nvidia-smi")) is None:
        return "there is no nvidia-smi, which comes with NVIDIA's driver"
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
        said = (done.stdout + done.stderr).strip().partition("\n")[0]
        return f"nvidia-smi says '{said}', and torch is built for CUDA {torch.version.cuda}"
    return "nvidia-smi does not answer"


def usable_cores(logical: int, affinity: int | None, quota: float | None) -> int:
    """Return the smallest of the three limits, at least 1. (torch ignores a container's quota.)"""
    return max(min(logical, affinity or logical, int(quota or logical)), 1)


def parse_cpu_max(text: str) -> float | None:
    """Return how many cores a cgroup's `cpu.max` (quota and period in µs, or 'max') allows."""
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


def free_shared_memory() -> int | None:
    """Return the free bytes in /dev/shm, which workers use to pass batches; None without it."""
    shared = Path("/dev/shm")
    return shutil.disk_usage(shared).free if shared.is_dir() else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _has_compiler() -> bool:
    compilers = [os.environ.get("CC", "cc"), "gcc", "clang"]
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(map(shutil.which, compilers)) and header.exists()


def _cpu_quota(root: Path) -> float | None:
    """Return the CPU quota, in cores, of the cgroup at a container's root, if it has one."""
    try:
        if (root / "cpu.max").exists():
            return parse_cpu_max((root / "cpu.max").read_text())
        quota = int((root / "cpu/cpu.cfs_quota_us").read_text())  # cgroup v1
        return quota / int((root / "cpu/cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError):
        return None
