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
from workloads import LEFT_OUT, Workload, label_of

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "torchvision", "lightning", "triton", "timm", "pillow", "numpy")
LONGEST_SECONDS = 180  # limit for one row


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


def this_gpu() -> nvml.GpuState | None:
    """Return the state of the first GPU in CUDA_VISIBLE_DEVICES, or of the first GPU."""
    states = nvml.gpu_states()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return next((gpu for gpu in states if named in (str(gpu.index), gpu.uuid)), None)


def run(asked: argparse.Namespace, work: Workload, row: str, round_: int) -> dict[str, Any] | None:
    """Run a row. Return its result, or why it is skipped; None if it failed."""
    log = asked.out / f"{asked.workload}-{row}-{round_}.log"
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        out = Path(folder) / "found.json"
        few = ",".join(map(str, sorted(os.sched_getaffinity(0))[: work.cores]))
        command = ["taskset", "-c", few] if work.cores and "limit" not in row else []
        command += [sys.executable, *command_of(asked, work, row, out)]
        paths = [str(asked.project.resolve() / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
        settings = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "RUN_FOLDER": f"{folder}/run",
        }
        cache = asked.out.resolve() / "inductor" / asked.workload
        settings.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
        settings.pop("WANDB_API_KEY", None)
        begun = time.time()
        with log.open("w") as output, clocks() as seen:
            process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
            try:
                status = process.wait(LONGEST_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = 124
        seconds = time.time() - begun
        last = log.read_text(errors="replace").splitlines()[-1:] or [""]
        named = {"workload": asked.workload, "row": row, "round": round_, "seconds": seconds}
        named |= {"devices": work.devices} if work.devices else {}
        if status == LEFT_OUT:
            print(last[0], flush=True)
            return named | {"left_out": last[0]}
        if status or not out.is_file():
            print(
                f"{label_of(row, work.devices)} failed ({status}): {last[0]}, see {log}", flush=True
            )
            return None
        found = json.loads(out.read_text())
        found["first_step"] -= begun
        record = Path(folder, "run", "run.json")
        if record.is_file():
            seconds_in_fit = json.loads(record.read_text())["results"]["seconds_to_first_step"]
            found["first_step_in_fit"] = seconds_in_fit
        shown = shlex.join(command).replace(sys.executable, "python").replace(folder, "…")
        shown = shown.replace(f"{HERE.parent}/", "")
        label = label_of(row, work.devices)
        print(f"round {round_ + 1}  {label:44} {found['inside']:9,.0f} img/s", flush=True)
        return {**named, **found, **seen, "command": shown}


def command_of(asked: argparse.Namespace, work: Workload, row: str, out: Path) -> list[str]:
    """Return Python's arguments for a row. Ours is what a user types, plus a callback."""
    files = ["--jpegs", str(asked.jpegs)] if work.folder else []
    if not row.startswith(("ours", "several")) or row == "several-limit":
        files += ["--tiny"] if asked.tiny else []
        files += [f"--devices={work.devices}"] if work.devices else []
        return [str(HERE / "rows.py"), asked.workload, row, str(out), *files]
    streams = work.folder and row != "ours-resident"
    options = {"image_size": work.image_size, "train": work.train, "val": work.val}
    if work.folder:  # in GPU memory: half as many images give the same figure
        options |= {"train": work.train // 2, "val": work.val // 2}
    flags = {
        "config": asked.project / "configs" / ("imagefolder.yaml" if streams else "synthetic.yaml"),
        "data.options": json.dumps({"path": str(asked.jpegs.resolve())} if streams else options),
        "data.batch_size": work.batch,
        "model.network": work.network,
        "model.small_images": json.dumps(work.small_images),
        # A run of 30 epochs compiles automatically; one of a few hundred steps does not.
        "model.compile": "step-graph" if row.endswith("step-graph") else json.dumps(work.compiles),
        "trainer.max_epochs": work.epochs,
        "trainer.callbacks+": "my_project.engine.tools.timing.ClockCallback",
        "trainer.callbacks.path": out,
    }
    if row.startswith("several"):
        strategy = "ddp" if row == "several-ddp" else "data-parallel"
        flags |= {"trainer.devices": work.devices, "trainer.strategy": strategy}
    if streams:
        flags |= {"data.image_size": work.image_size}
    elif work.folder:
        flags |= {"data.crop_padding": 0}
    if not work.small_images:
        flags |= {"model.learning_rate": 0.05}
    if asked.tiny:
        flags |= {"trainer.accelerator": "cpu", "data.workers": work.workers}
    return ["-m", "my_project", "fit", *(f"--{name}={value}" for name, value in flags.items())]


@contextmanager
def clocks() -> Iterator[dict[str, float]]:
    """Record the GPU's clock and power every second; at the end, the second half's medians."""
    seen: dict[str, float] = {}
    states, over = list[nvml.GpuState](), threading.Event()

    def ask() -> None:
        while (gpu := this_gpu()) and not over.wait(1.0):
            states.append(gpu)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        over.set()
        asking.join()
        second_half = states[len(states) // 2 :]
        for name in ("sm_mhz", "watts") if second_half else ():
            seen[name] = statistics.median(getattr(gpu, name) for gpu in second_half)
