"""Training processes that are killed: forked from one that has imported everything, so each is real
and takes a second."""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing import process as processes
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.run import checkpoint_files, resume_checks
from {{ cookiecutter.__package_name }}.engine.run.digests import digest
from {{ cookiecutter.__package_name }}.engine.run.numerics import StepSeed

PRELOADED = [
    f"{package.__name__}.engine.cli.main",
    ImageClassifier.__module__,
    "sklearn.datasets",
    "matplotlib.pyplot",
    "torch._dynamo",
]


@dataclass
class Moment:
    """When a process kills itself: `what` it is doing, in or after which optimizer step."""

    what: str = "never"
    step: int = 0


@dataclass
class Killing:
    """One training job: its arguments, its processes, its moment, and what is taken out of it."""

    arguments: list[str]
    folder: Path
    processes: int = 1
    moment: Moment = field(default_factory=Moment)
    without: str = ""


def start(job: Killing) -> list[BaseProcess]:
    """Start the processes of a job."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = [context.Process(target=_train, args=(job, i, port)) for i in range(job.processes)]
    for process in started:
        process.start()
        processes._children.discard(process)  # which each start() polls, of other threads too
    return started


def wait(started: list[BaseProcess], seconds: float = 300.0) -> int:
    """Return 0 if all end well, or the status of the first that does not: if killed, as the others
    are then, or 124 if none ends for so long."""
    status = None
    while status is None:
        codes = [process.exitcode for process in started]
        running = [process.sentinel for process in started if process.exitcode is None]
        if any(codes) or not running:
            status = next(filter(None, codes), 0)
        elif not multiprocessing.connection.wait(running, seconds):
            status = 124
    if status in (124, -signal.SIGKILL):
        for process in started:
            process.kill()
    for process in started:
        process.join()
    return status


def _train(job: Killing, rank: int, port: int) -> None:
    """Be one of the job's processes: what torchrun would set is set by hand."""
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as elsewhere
    os.environ["RUN_FOLDER"] = str(job.folder)
    if job.processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "ROLE_RANK": rank}
        names |= {"WORLD_SIZE": job.processes, "LOCAL_WORLD_SIZE": job.processes}
        names |= {"GROUP_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ["TORCHELASTIC_RUN_ID"] = job.folder.name
    log = os.open(job.folder.with_name(f"{job.folder.name}.log"), os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if rank == 0:
        _arm(job.moment)
    _take_out(job.without)
    sys.argv = [package.__name__, *job.arguments]
    runpy.run_module(package.__name__, run_name="__main__")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, check: Callable[..., bool]) -> None:
    """Let a function kill the process first, if the check of its arguments says so."""
    original = getattr(owner, name)

    def armed(*arguments: Any, **options: Any) -> Any:
        if check(*arguments):
            _kill()
        return original(*arguments, **options)

    setattr(owner, name, armed)


def _arm(moment: Moment) -> None:
    reached = {"step": 0, "saves": 0}

    def at_step(model: ImageClassifier, *_: Any) -> bool:
        reached["step"] = model.global_step
        return moment.what in ("step", "last batch") and model.global_step >= moment.step

    def validating(model: ImageClassifier, batch: Any, batch_idx: int) -> bool:
        return moment.what == "validation" and model.global_step >= moment.step

    def saving(*_: Any) -> bool:
        return reached["step"] >= moment.step

    _before(ImageClassifier, "on_train_batch_start", at_step)
    _before(ImageClassifier, "validation_step", validating)
    if moment.what == "half a file":
        whole = torch.save

        def half(content: Any, path: Path) -> None:
            if saving():
                buffer = BytesIO()
                whole(content, buffer)
                path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
                _kill()
            whole(content, path)

        torch.save = half
    elif moment.what == "a file without its digest":
        _before(checkpoint_files, "_add_digest", saving)
    elif moment.what == "between two names":
        _before(Path, "replace", lambda path, *_: path.name == ".last.ckpt.new" and saving())


def _take_out(what: str) -> None:
    """Take out what makes a resume exact, to see that it is noticed, or a fast disk."""
    if what == "step seeding":
        StepSeed.on_train_batch_start = lambda *_: None
    elif what == "the order's resume":
        whole = ImageData._position
        ImageData._position = lambda data: (whole(data)[0], 0)
    elif what == "the refusal of another seed":
        resume_checks.check_resume = lambda *_: None
    elif what == "a fast disk":
        save = torch.save
        torch.save = lambda *arguments: (time.sleep(1.0), save(*arguments))


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that has to be equal: weights, optimizer, losses, rates, best checkpoint."""
    results = json.loads((folder / "run.json").read_text())["results"]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    found = json.loads((folder / "digests.json").read_text())
    return {
        **found,
        "rows": (folder / "metrics.csv").read_text().splitlines(),
        "best": (best["global_step"], digest(best["state_dict"])),
        "best score": results["best val/accuracy"],
        "steps": results["steps"],
    }


def steps_done(folder: Path) -> int | None:
    """Return the step of the checkpoint that a resume would take, None without one."""
    with suppress(Exception):
        path = checkpoint_files.find_checkpoint(folder, "last", "previous")
        return torch.load(path, weights_only=True)["global_step"]
    return None
