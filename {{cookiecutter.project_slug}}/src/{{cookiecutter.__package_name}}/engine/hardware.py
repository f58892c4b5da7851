"""What this machine is, and what follows from it: the hardware is asked once, here.

`this_machine()` looks; everything else is a pure function of the `Machine` it returns, so that the
choices for a V100, a laptop or a container with a CPU quota are tested without owning one.
"""

import os
import platform
import re
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import UserError

# On an H200 with a cold cache, compiling costs 10 to 15 s for ResNet-18 and 30 to 37 s for
# ResNet-50 and saves 3 and 16 ms a step: after about this many steps it has paid.
STEPS_THAT_PAY_FOR_COMPILING = 3000

JPEG_ENGINES = {(8, 0), (9, 0), (10, 0), (10, 3)}  # A100, H100, H200, the data centre's Blackwell
CORES_THAT_KEEP_UP = 24  # with ResNet-50 on an H200; 16 do in some epochs, 12 by seven tenths


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: its name, compute capability such as (9, 0), and memory in GiB."""

    name: str
    capability: tuple[int, int]
    memory_gib: float


@dataclass(frozen=True)
class Machine:
    """What training can use here.

    `cores` are those this process may really use; `compiler` says whether a C compiler and Python's
    headers are there, which torch.compile needs.
    """

    system: str
    cpu: str
    cores: int
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    compiler: bool = True


def this_machine() -> Machine:
    """Look at the machine: cores within affinity and quota, and the GPUs that torch can use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = map(torch.cuda.get_device_properties, range(count))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return Machine(
        system=platform.system(),
        cpu=_cpu_name(),
        cores=usable_cores(os.cpu_count() or 1, affinity, _cpu_quota(Path("/sys/fs/cgroup"))),
        gpus=tuple(Gpu(p.name, (p.major, p.minor), p.total_memory / 2**30) for p in properties),
        mps=torch.backends.mps.is_available(),
        compiler=_has_compiler(),
    )


def usable_cores(logical: int, affinity: int | None, quota: float | None) -> int:
    """Return the smallest of the three limits, at least 1: torch ignores a container's quota."""
    return max(min(logical, affinity or logical, int(quota or logical)), 1)


def parse_cpu_max(text: str) -> float | None:
    """Return the cores that a cgroup's `cpu.max` (quota and period in µs, or 'max') allows."""
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


def accelerator(machine: Machine) -> str:
    """Return Lightning's name of the device to train on."""
    return "cuda" if machine.gpus else "mps" if machine.mps else "cpu"


def devices(machine: Machine, requested: int | str | None, accelerator: str) -> int:
    """Return how many devices train together: unset ('auto') one, -1 all (two processes on a CPU).

    Raises UserError if more GPUs are asked for than there are.
    """
    everything = {"cuda": len(machine.gpus), "mps": 1}.get(accelerator, 2)
    if requested in (None, "auto"):
        return 1
    if requested in (-1, "-1"):
        return everything
    try:
        count = int(requested)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UserError(
            f"trainer.devices is {requested!r}. Give a number, or -1 for all of them; choose which"
            " GPUs with the variable CUDA_VISIBLE_DEVICES=0,2."
        ) from None
    if count < 1 or (accelerator != "cpu" and count > everything):
        raise UserError(f"trainer.devices is {count}, but this machine has {everything}.")
    return count


def precision(machine: Machine, accelerator: str) -> tuple[str, str]:
    """Return Lightning's precision flag and the reason for it."""
    if accelerator != "cuda":
        return "32-true", f"float32 on {'the CPU' if accelerator == 'cpu' else 'Apple MPS'}"
    oldest = min(gpu.capability for gpu in machine.gpus)
    if oldest >= (8, 0):
        return "bf16-mixed", "Ampere or newer computes in bfloat16"
    return "16-mixed", f"compute capability {oldest[0]}.{oldest[1]} has float16 but no bfloat16"


def compile_mode(
    machine: Machine, accelerator: str, parts: int, steps: float, asked: bool | str | None = None
) -> tuple[str | None, str]:
    """Return torch.compile's mode or None for no compiling, and the reason for it.

    `parts` are a step's batches, on several devices or one after another; `steps` the optimizer's
    of the whole run. What the configuration has `asked` for (true, false or a mode) is obeyed.
    """
    # CUDA graphs fail BatchNorm under DDP (pytorch issue 139207) and summed gradients (169545).
    best = "reduce-overhead" if accelerator == "cuda" and parts == 1 else "default"
    if asked is not None:
        mode = asked if isinstance(asked, str) else (best if asked else None)
        return mode, "as configured"
    if accelerator != "cuda":
        return None, "no GPU, and on a CPU it would take longer than it saves"
    if not machine.compiler:
        return None, "no C compiler or no Python headers (Debian: apt install gcc python3-dev)"
    if steps < STEPS_THAT_PAY_FOR_COMPILING:
        enough = f"as {STEPS_THAT_PAY_FOR_COMPILING} would; --model.compile true compiles anyway"
        return None, f"{steps:.0f} steps are too few to pay for it, {enough}"
    return best, "CUDA graphs take the launch cost away" if parts == 1 else "steps of several parts"


def threads_per_process(machine: Machine, processes: int) -> int:
    """Return how many CPU threads each of several processes on this machine should use."""
    return max(machine.cores // max(processes, 1), 1)


def workers(machine: Machine, processes: int) -> int:
    """Return how many workers each of several training processes should have: a core each.

    The training process keeps one to itself; more than 16 would only hold more memory.
    """
    return max(min(threads_per_process(machine, processes) - 1, 16), 0)


def free_shared_memory() -> int | None:
    """Return the bytes that are free in /dev/shm, through which workers hand over their batches."""
    shared = Path("/dev/shm")
    return shutil.disk_usage(shared).free if shared.is_dir() else None


def decoder(machine: Machine, accelerator: str, processes: int) -> str:
    """Return where a folder's JPEG files are decoded: on the 'gpu' where it can and cores lack."""
    able = accelerator == "cuda" and all(gpu.capability in JPEG_ENGINES for gpu in machine.gpus)
    few = threads_per_process(machine, processes) < CORES_THAT_KEEP_UP
    return "gpu" if able and few else "cpu"


def fits_on_device(machine: Machine, size: int) -> bool:
    """Return whether `size` bytes of images leave enough of each GPU's memory for training."""
    return all(size <= 0.4 * gpu.memory_gib * 2**30 for gpu in machine.gpus)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _has_compiler() -> bool:
    compilers = [os.environ.get("CC", "cc"), "gcc", "clang"]
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(map(shutil.which, compilers)) and header.exists()


def _cpu_quota(root: Path) -> float | None:
    """Return the quota in cores of the cgroup that a container sees as its root, if any."""
    try:
        if (root / "cpu.max").exists():
            return parse_cpu_max((root / "cpu.max").read_text())
        quota = int((root / "cpu/cpu.cfs_quota_us").read_text())  # cgroup's first version
        return quota / int((root / "cpu/cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError):
        return None
