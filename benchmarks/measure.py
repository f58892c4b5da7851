"""Run one row of a workload in its own process, and record the machine."""

import argparse
import importlib.metadata
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from my_project.engine import nvml
from my_project.engine.nvml import GpuState
from workload import LEFT_OUT, Workload

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "torchvision", "lightning", "triton", "timm", "pillow", "numpy")
PACKAGES += ("transformers", "accelerate")
BETWEEN = 0.5  # seconds between two questions to the driver
PERIOD = 1.0  # seconds over which the driver takes the mean of the utilization, at most


def this_machine(work: Workload) -> dict[str, Any]:
    """Return what a figure depends on: GPU, driver, cores and installed versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    machine = {"versions": versions, "cores": len(os.sched_getaffinity(0)), "pinned": work.cores}
    if gpu := this_gpu():
        machine["gpu"], machine["driver"] = gpu.name, nvml.driver_version()
    return machine


def this_gpu() -> GpuState | None:
    """Return the state of the first GPU in CUDA_VISIBLE_DEVICES, or of the first GPU."""
    states = nvml.gpu_states()
    named = first_gpu()
    return next((gpu for gpu in states if named in (str(gpu.index), gpu.uuid)), None)


def first_gpu() -> str:
    """Return the first number or name in CUDA_VISIBLE_DEVICES, or the number of the first GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def run(asked: argparse.Namespace, work: Workload, row: str, round_: int) -> dict[str, Any] | None:
    """Run a row. Return its result, or why it is skipped; None if it failed."""
    log = asked.out / f"{asked.workload}-{row}-{round_}.log"
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        out = Path(folder) / "found.json"
        cores = work.cores_of(row)
        few = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
        command = ["taskset", "-c", few] if cores else []
        command += [sys.executable, *command_of(asked, work, row, out)]
        settings = environment(asked, work, folder)
        begun = time.time()
        with log.open("w") as output, gpu_states() as states:
            process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
            try:
                status = process.wait(work.longest)
            except subprocess.TimeoutExpired:
                process.kill()
                status = 124
            seconds = time.time() - begun
        last = log.read_text(errors="replace").splitlines()[-1:] or [""]
        named = {"workload": asked.workload, "row": row, "round": round_, "seconds": seconds}
        named |= {"devices": work.devices} if work.devices else {}
        named |= {"strong": True} if work.strong else {}
        if status == LEFT_OUT:
            print(last[0], flush=True)
            return named | {"left_out": last[0]}
        if status or not out.is_file():
            print(f"{work.label(row)} failed ({status}): {last[0]}, see {log}", flush=True)
            return None
        found = json.loads(out.read_text())
        found["first_step"] -= begun
        seen = usage(states, found.pop("window"))
        record = Path(folder, "run", "run.json")
        if record.is_file():
            seconds_in_fit = json.loads(record.read_text())["results"]["seconds_to_first_step"]
            found["first_step_in_fit"] = seconds_in_fit
        shown = shlex.join(command).replace(sys.executable, "python").replace(folder, "…")
        shown = shown.replace(f"{HERE.parent}/", "")
        if work.whole_process:
            found |= {"inside": work.train * work.epochs / seconds, "whole": None}
        speed = f"{found['inside']:9,.0f} {work.UNIT}"
        print(f"round {round_ + 1}  {work.label(row):44} {speed}", flush=True)
        return {**named, **found, **seen, "command": shown}


def environment(asked: argparse.Namespace, work: Workload, folder: str) -> dict[str, str]:
    """Return the variables of a row's process. A run of ours is saved to `folder`/run."""
    paths = [str(asked.project.resolve() / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
    settings = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RUN_FOLDER": f"{folder}/run",
    }
    cache = asked.out.resolve() / "inductor" / asked.workload
    settings.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    settings.pop("WANDB_API_KEY", None)
    if not work.devices:  # transformers' Trainer trains on all GPUs that it finds
        settings["CUDA_VISIBLE_DEVICES"] = first_gpu()
    return settings


def command_of(asked: argparse.Namespace, work: Workload, row: str, out: Path) -> list[str]:
    """Return Python's arguments for a row. Ours is what a user types, plus a callback."""
    own = work.ROWS[row].flags
    if own is None:
        more = ["--tiny"] if asked.tiny else []
        more += [f"--devices={work.devices}"] if work.devices else []
        more += ["--strong"] if work.strong else []
        more += work.arguments(asked)
        return [str(HERE / "rows.py"), asked.workload, row, str(out), *more]
    flags = work.flags(row, asked)
    if asked.tiny:
        flags |= {"trainer.accelerator": "cpu", "data.workers": work.workers}
    clock = {
        "trainer.callbacks+": "my_project.engine.tools.timing.ClockCallback",
        "trainer.callbacks.path": out,
    }
    # The last flag of a name counts, but own may have another callback.
    every = [*flags.items(), *clock.items(), *own.items()]
    return ["-m", "my_project", "fit", *(f"--{name}={value}" for name, value in every)]


@contextmanager
def gpu_states() -> Iterator[list[tuple[float, GpuState]]]:
    """Ask for the GPU's state twice a second: its time.time(), and the state."""
    states, over = list[tuple[float, GpuState]](), threading.Event()

    def ask() -> None:
        while (gpu := this_gpu()) and not over.wait(BETWEEN):
            states.append((time.time(), gpu))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield states
    finally:
        over.set()
        asking.join()


def usage(
    states: list[tuple[float, GpuState]], window: tuple[float, float] | None
) -> dict[str, float]:
    """Return the mean utilization in percent, and the median clock and power, within a window.

    Utilization is NVML's: the share of time in which at least one kernel ran, over a period of up
    to a second before it was asked for. So the window's first second is left out.
    """
    begin, end = window or (0.0, 0.0)
    within = [gpu for at, gpu in states if begin + PERIOD <= at <= end]
    if not within:
        return {}
    return {
        "busy_percent": statistics.fmean(gpu.busy for gpu in within),
        "sm_mhz": statistics.median(gpu.sm_mhz for gpu in within),
        "watts": statistics.median(gpu.watts for gpu in within),
    }
