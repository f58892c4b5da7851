"""What NVIDIA's driver says of the GPUs: who uses them, how busy and how hot they are.

It is asked through NVML, without touching CUDA; where there is no driver there are no GPUs.
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
    """A GPU now: memory in bytes, `busy` in percent, °C, and (process id, bytes) of its `users`.

    `sm_mhz` is the clock of its multiprocessors, `watts` the power it draws; 0 where the driver
    doesn't report them.
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
    count = pynvml.nvmlDeviceGetCount() if _driver_is_there() else 0
    return [_state(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]


def gpu_state(uuid: str) -> GpuState | None:
    """Return the state of the GPU of that UUID, as torch names it; None if the driver can't say."""
    if _driver_is_there():
        with suppress(pynvml.NVMLError):  # a slice of a GPU (MIG) has a UUID of another kind
            return _state(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    return None


def driver_version() -> str | None:
    """Return the driver's version, such as '580.95.05'; None where there is none."""
    return str(pynvml.nvmlSystemGetDriverVersion()) if _driver_is_there() else None


def idle_first(states: Sequence[GpuState]) -> list[GpuState]:
    """Return the GPUs in the order in which to use them: nobody's first, then the emptiest."""
    return sorted(states, key=lambda gpu: (bool(gpu.users), gpu.used >> 30, gpu.index))


def prefer_idle_gpus() -> None:
    """Before CUDA is touched: let it count idle GPUs first, unless somebody has chosen some."""
    chosen = os.environ.keys() & {"CUDA_VISIBLE_DEVICES", "TORCHELASTIC_RUN_ID"}
    if not chosen and len(states := gpu_states()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in idle_first(states))


def other_users(gpu: GpuState, own_bytes: int = 0) -> dict[str, int]:
    """Return who else computes on a GPU, as 'python (pid 17, ada)', and bytes of memory.

    In a container the driver numbers processes as the host does: there, this process is the one
    whose memory comes closest to its own `own_bytes`, if it has any.
    """
    users = {pid: memory for pid, memory in gpu.users if pid != os.getpid()}
    if own_bytes and users and len(users) == len(gpu.users):
        users.pop(min(users, key=lambda pid: abs(users[pid] - own_bytes)))
    return {_who(pid): memory for pid, memory in users.items()}


def in_use() -> str:
    """Return which GPUs others compute on, such as 'GPU 0 by python (pid 17, ada), 12.3 GiB'."""
    return "; ".join(
        f"GPU {gpu.index} by {name}, {memory / 2**30:.1f} GiB"
        for gpu in gpu_states()
        for name, memory in other_users(gpu).items()
    )


@cache
def _driver_is_there() -> bool:
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return True
    return False


def _state(handle: Any) -> GpuState:
    def ask(question: Any, *arguments: Any) -> Any:
        with suppress(pynvml.NVMLError):  # some GPUs, drivers and containers leave some unanswered
            return question(handle, *arguments)

    rates, memory = ask(pynvml.nvmlDeviceGetUtilizationRates), ask(pynvml.nvmlDeviceGetMemoryInfo)
    users = ask(pynvml.nvmlDeviceGetComputeRunningProcesses) or []
    return GpuState(
        index=pynvml.nvmlDeviceGetIndex(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        used=memory.used if memory else 0,
        busy=rates.gpu if rates else 0,
        temperature=ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU) or 0,
        users=tuple((user.pid, user.usedGpuMemory or 0) for user in users),
        sm_mhz=ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM) or 0,
        watts=(ask(pynvml.nvmlDeviceGetPowerUsage) or 0) / 1000,
    )


def _who(pid: int) -> str:
    program, owner = "", "outside of this container"
    with suppress(OSError, KeyError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        program = Path(os.fsdecode(command)).name
        owner = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
    return f"{program or 'a process'} (pid {pid}, {owner})"
