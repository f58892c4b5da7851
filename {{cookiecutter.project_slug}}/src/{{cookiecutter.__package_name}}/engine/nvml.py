"""The state of NVIDIA GPUs: who uses them, their utilization, temperature and memory.

It comes from the driver through NVML, without initializing CUDA. Without a driver there are no
GPUs.
"""

import os
import pwd
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pynvml


@dataclass(frozen=True)
class GpuState:
    """The state of a GPU at one moment; a number is 0 if the driver doesn't report it.

    `used` is memory in bytes, `busy` utilization in percent, `temperature` in °C, `users` (process
    id, bytes) of each process. `sm_mhz` is the clock of the multiprocessors, `watts` the power.
    """

    index: int
    uuid: str
    name: str
    used: int
    busy: int
    temperature: int
    users: tuple[tuple[int, int], ...] = ()
    sm_mhz: int = 0
    watts: float = 0.0


def gpu_states() -> list[GpuState]:
    """Return the state of every GPU of the machine, in the driver's order."""
    count = pynvml.nvmlDeviceGetCount() if _has_driver() else 0
    return [_state(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]


def gpu_state(uuid: str) -> GpuState | None:
    """Return the state of the GPU with that UUID, in torch's spelling; None if it is unknown."""
    if _has_driver():
        with suppress(pynvml.NVMLError):  # a slice of a GPU (MIG) has a UUID of another kind
            return _state(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    return None


def driver_version() -> str | None:
    """Return the driver's version, such as '580.95.05'; None without a driver."""
    return str(pynvml.nvmlSystemGetDriverVersion()) if _has_driver() else None


def idle_first(states: Sequence[GpuState]) -> list[GpuState]:
    """Return the GPUs in the order of preference: unused ones first, then by used memory."""
    return sorted(states, key=lambda gpu: (bool(gpu.users), gpu.used >> 30, gpu.index))


def prefer_idle_gpus() -> None:
    """Set CUDA_VISIBLE_DEVICES to all GPUs, idle ones first, unless the user has chosen GPUs.

    Call it before CUDA is initialized.
    """
    chosen = os.environ.keys() & {"CUDA_VISIBLE_DEVICES", "TORCHELASTIC_RUN_ID"}
    if not chosen and len(states := gpu_states()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in idle_first(states))


def other_users(gpu: GpuState, own_bytes: int = 0) -> dict[str, int]:
    """Return the other processes on a GPU, as 'python (pid 17, ada)', and their memory in bytes.

    In a container the driver reports the host's process ids. This process is then taken to be the
    one whose memory is closest to `own_bytes`, if that is not 0.
    """
    users = {pid: memory for pid, memory in gpu.users if pid != os.getpid()}
    if own_bytes and users and len(users) == len(gpu.users):
        users.pop(min(users, key=lambda pid: abs(users[pid] - own_bytes)))
    return {_describe_process(pid): memory for pid, memory in users.items()}


def in_use() -> str:
    """Return which GPUs other processes use, such as 'GPU 0 by python (pid 17, ada), 12.3 GiB'."""
    return "; ".join(
        f"GPU {gpu.index} by {name}, {memory / 2**30:.1f} GiB"
        for gpu in gpu_states()
        for name, memory in other_users(gpu).items()
    )


@cache
def _has_driver() -> bool:
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return True
    return False


def _state(handle: Any) -> GpuState:
    def query(function: Any, *arguments: Any) -> Any:
        with suppress(pynvml.NVMLError):  # some GPUs, drivers and containers don't support it
            return function(handle, *arguments)

    rates = query(pynvml.nvmlDeviceGetUtilizationRates)
    memory = query(pynvml.nvmlDeviceGetMemoryInfo)
    users = query(pynvml.nvmlDeviceGetComputeRunningProcesses) or []
    return GpuState(
        index=pynvml.nvmlDeviceGetIndex(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        used=memory.used if memory else 0,
        busy=rates.gpu if rates else 0,
        temperature=query(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU) or 0,
        users=tuple((user.pid, user.usedGpuMemory or 0) for user in users),
        sm_mhz=query(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM) or 0,
        watts=(query(pynvml.nvmlDeviceGetPowerUsage) or 0) / 1000,
    )


def _describe_process(pid: int) -> str:
    program, owner = "", "outside of this container"
    with suppress(OSError, KeyError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        program = Path(os.fsdecode(command)).name
        owner = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
    return f"{program or 'a process'} (pid {pid}, {owner})"
