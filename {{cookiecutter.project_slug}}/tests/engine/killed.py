"""Training jobs that are killed: by themselves at a chosen moment, or from outside."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from warm import WarmPopen

from {{ cookiecutter.__package_name }}.engine.run.checkpoint_files import (
    find_checkpoint,
)
from {{ cookiecutter.__package_name }}.engine.run.digests import digest

PACKAGE = "{{ cookiecutter.__package_name }}"


@dataclass
class Moment:
    """When a process kills itself: what it is doing, and in or after which optimizer step."""

    what: str = "never"
    step: int = 0


@dataclass
class Job:
    """A training job: arguments, number of processes, moment of the kill, disabled feature.

    With `nodes`, each process is a node of its own, so all train on the first device. `port` is the
    port where they meet, `environments` what each process has besides the caller's environment.
    """

    arguments: list[str]
    folder: Path
    processes: int = 1
    moment: Moment = field(default_factory=Moment)
    without: str = ""
    package: str = PACKAGE
    search: list[str] = field(default_factory=list)  # where the package is, if not installed
    nodes: bool = False
    port: int | None = None
    environments: Sequence[dict[str, str]] = ({}, {})


def start(job: Job) -> list[WarmPopen]:
    """Start the processes of a job, with the variables that torchrun would set."""
    port = job.port or free_port()
    search = [str(Path(__file__).parent), *job.search, os.environ.get("PYTHONPATH", "")]
    settings = os.environ | {"RUN_FOLDER": str(job.folder), "PYTHONPATH": os.pathsep.join(search)}
    command = [sys.executable, "-m", "killed", json.dumps(asdict(job), default=str)]
    with job.folder.with_name(f"{job.folder.name}.log").open("a") as log:
        return [
            WarmPopen(
                [*command, str(rank)],
                env=settings
                | job.environments[rank]
                | (of_torchrun(job, rank, port) if job.processes > 1 else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank in range(job.processes)
        ]


def wait(started: Sequence[WarmPopen], seconds: float = 300.0) -> int:
    """Return 0 if all processes succeed, else what ended the first; 124 on timeout.

    If a signal ended one, its number is returned, below 0. The others are then killed.
    """
    deadline, status = time.monotonic() + seconds, None
    while status is None:
        codes = [process.poll() for process in started]
        if any(codes) or None not in codes:
            time.sleep(0.2)  # the others may notice a kill before this process does
            codes = [process.poll() or 0 for process in started]
            status = min(codes) or max(codes)
        elif time.monotonic() > deadline:
            status = 124
        else:
            time.sleep(0.01)
    for process in started:
        if status in (124, -signal.SIGKILL):
            process.kill()
        process.wait()
    return status


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def of_torchrun(job: Job, rank: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun would set for a rank."""
    node, local = (rank, 0) if job.nodes else (0, rank)
    nodes, each = (job.processes, 1) if job.nodes else (1, job.processes)
    names: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": local, "GROUP_RANK": node}
    names |= {"ROLE_RANK": rank, "WORLD_SIZE": job.processes, "LOCAL_WORLD_SIZE": each}
    names |= {"GROUP_WORLD_SIZE": nodes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    names |= {"TORCHELASTIC_RUN_ID": job.folder.name}
    return {name: str(value) for name, value in names.items()}


def by_two_ranks(folder: Path, code: str, *arguments: str, statuses: Sequence[int] = (0, 0)) -> str:
    """Run code, with {package} in it, as two ranks and return what they print.

    They must end with these statuses.
    """
    script = folder / "script.py"
    script.write_text(code.format(package=PACKAGE))
    job, port, log = Job([], script, 2), free_port(), script.with_suffix(".log")
    with log.open("w") as file:
        streams: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT}
        command = [sys.executable, str(script), *arguments]
        ranks = [
            WarmPopen(command, env=os.environ | of_torchrun(job, rank, port), **streams)
            for rank in (0, 1)
        ]
    assert [rank.wait(120) for rank in ranks] == list(statuses), log.read_text()
    return log.read_text()


def by_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code, with {package} in it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code.replace("{package}", PACKAGE)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        errors="replace",
    )


def _train(job: Job, rank: int) -> None:
    """Run as one of the job's processes."""
    if rank == 0:
        _arm(job)
    _take_out(job)
    sys.argv = [job.package, *job.arguments]
    runpy.run_module(job.package, run_name="__main__", alter_sys=True)


def _engine(job: Job, module: str) -> Any:
    return import_module(f"{job.package}.engine.{module}")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, check: Callable[..., bool]) -> None:
    """Patch a function so that it kills the process first if `check(*arguments)` is true."""
    original = getattr(owner, name)

    def armed(*arguments: Any, **options: Any) -> Any:
        if check(*arguments):
            _kill()
        return original(*arguments, **options)

    setattr(owner, name, armed)


def _arm(job: Job) -> None:
    moment, task = job.moment, _engine(job, "task").Task
    reached = {"step": 0, "saves": 0}

    def at_step(model: Any, *_: Any) -> bool:
        reached["step"] = model.global_step
        if moment.what == "SIGTERM" and model.global_step == moment.step:
            os.kill(os.getpid(), signal.SIGTERM)  # rank 0 saves with the others, and ends
        return moment.what in ("step", "last batch") and model.global_step >= moment.step

    def validating(model: Any, batch: Any, batch_idx: int) -> bool:
        return moment.what == "validation" and model.global_step >= moment.step

    def saving(*_: Any) -> bool:
        return reached["step"] >= moment.step

    _before(task, "on_train_batch_start", at_step)
    _before(task, "validation_step", validating)
    if moment.what == "half a file":
        whole = torch.save

        def half(content: Any, file: Any) -> None:
            if saving():
                buffer = BytesIO()
                whole(content, buffer)
                file.write(buffer.getvalue()[: buffer.tell() // 2])
                file.flush()
                _kill()
            whole(content, file)

        torch.save = half
    elif moment.what == "a file without its digest":
        _before(_engine(job, "run.checkpoint_files"), "_add_digest", saving)
    elif moment.what == "between two names":
        _before(Path, "replace", lambda path, *_: path.name == ".last.ckpt.new" and saving())


def _take_out(job: Job) -> None:
    """Disable what makes a resume exact, to test that this is detected; or slow the disk."""
    what = job.without
    if what == "step seeding":
        _engine(job, "run.numerics").StepSeed.on_train_batch_start = lambda *_: None
    elif what == "the order's resume":
        data = _engine(job, "data.module").Data
        whole = data._position
        data._position = lambda data, batches: (whole(data, batches)[0], 0)
    elif what == "the weights of a loss":
        parts = _engine(job, "fast.step_parts").StepParts
        parts.weigh = lambda parts, batch, outputs, loss, terms: loss
    elif what == "the refusal of another seed":
        _engine(job, "run.resume_checks").check_resume = lambda *_: None
    elif what == "a healthy rank 1" and os.environ["RANK"] == "1":
        _engine(job, "task").Task.on_train_batch_start = _break_in_step_5
    elif what == "a finite loss on rank 1" and os.environ["RANK"] == "1":
        parts = _engine(job, "fast.step_parts").StepParts
        parts.weigh = lambda parts, batch, outputs, loss, terms: loss * float("nan")
    elif what == "the same data on rank 1" and os.environ["RANK"] == "1":
        sources = import_module(f"{job.package}.data").SOURCES
        sources["digits"] = partial(sources["synthetic"], 8, 1077, 360)
    elif what == "a fast disk":
        save = torch.save
        torch.save = lambda *arguments: (time.sleep(1.0), save(*arguments))


def _break_in_step_5(task: Any, *_: Any) -> None:
    if task.global_step == 5:
        raise ValueError("it is broken")


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that has to be equal: weights, optimizer, metrics, best checkpoint."""
    results = json.loads((folder / "run.json").read_text())["results"]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    found = json.loads((folder / "digests.json").read_text())
    return {
        **found,
        "rows": (folder / "metrics.csv").read_text().splitlines(),
        "best": (best["global_step"], digest(best["state_dict"])),
        "best score": next(value for name, value in results.items() if name.startswith("best ")),
        "steps": results["steps"],
    }


def log_of(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text()


def steps_done(folder: Path) -> int | None:
    """Return the step of the checkpoint that a resume would load, or None."""
    with suppress(Exception):
        path = find_checkpoint(folder, "last", "previous")
        return torch.load(path, weights_only=True)["global_step"]
    return None


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    settings |= {"folder": Path(settings["folder"]), "moment": Moment(**settings["moment"])}
    _train(Job(**settings), int(sys.argv[2]))
