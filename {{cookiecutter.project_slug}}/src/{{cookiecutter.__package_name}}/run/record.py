"""run.json and source.zip: what a run was, from its first second on, and all to repeat it."""

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from ..errors import UserError
from .interruption import Interrupted
from .source import pack_source
from .verified import sha256

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "scikit-learn")


class RunRecord:
    """The run's record, rewritten whole and atomically at every change.

    A record that says `running` while its process is gone belongs to a run that was killed.
    """

    def __init__(self, folder: Path, content: dict[str, Any] | None = None) -> None:
        self.path = folder / "run.json"
        self.lock: IO[str] | None = None
        self.content = json.loads(self.path.read_text()) if content is None else content
        self.before: dict[str, Any] | None = None  # the record, until a resume has been accepted

    @classmethod
    def start(
        cls, folder: Path, root: Path, recipe: str, config: str, **content: Any
    ) -> "RunRecord":
        """Write source, configuration and record of a run that starts, or add those of a resume.

        The record comes last: what it names is there, at whatever moment the process is killed.
        """
        lock = _only_writer(folder)
        goes_on = (folder / "run.json").exists()
        record = cls(folder, None if goes_on else {"resumes": []})
        record.lock, record.before = lock, deepcopy(record.content) if goes_on else None
        resumes = record.content["resumes"]
        resume = f".resume-{len(resumes) + 1}" if goes_on else ""
        archive = f"source{resume}.zip"
        (folder / f"config{resume}.yaml").write_text(config)
        content |= {
            "config": yaml.safe_load(config),
            "source": pack_source(root, folder / archive) | _commit(root),
            "locks": {path.name: sha256(path) for path in root.glob("*.lock")},
            "versions": _versions(),
        }
        process = {"host": platform.node(), "pid": os.getpid()}
        record.content |= {"results": {}, "reason": None, "ended": None, "process": process}
        if goes_on:
            record.update(state="running", resumes=[*resumes, {"time": _now(), **content}])
        else:
            record.update(state="running", started=_now(), recipe=recipe, **content)
        return record

    def update(self, **content: Any) -> None:
        """Set these entries and write the record; mappings are merged into those that are there."""
        for key, value in content.items():
            old = self.content.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                value = {**old, **value}
            self.content[key] = value
        draft = self.path.with_name(".run.json.new")
        with draft.open("w") as file:
            file.write(json.dumps(self.content, indent=2, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def newest_start(self) -> dict[str, Any]:
        """Return what was recorded when the run started, or went on, the last time."""
        return self.content["resumes"][-1] if self.content["resumes"] else self.content

    def newest_config(self) -> Path:
        """Return the file of the newest start's configuration: each resume has its own."""
        resumes = len(self.content["resumes"])
        return self.path.with_name(f"config.resume-{resumes}.yaml" if resumes else "config.yaml")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record it if the block fails or is interrupted, and why."""
        try:
            with self.timed("total"):
                yield
        except BaseException as error:
            if self.before is not None and isinstance(error, UserError):
                self._forget_resume(self.before)
            elif isinstance(error, Interrupted):
                self._end("interrupted", error.reason)
            else:
                with suppress(OSError):  # a full disk, which may be why it failed
                    self._end("failed", f"{type(error).__name__}: {error}")
            raise

    def _forget_resume(self, before: dict[str, Any]) -> None:
        """Leave a run as it was before a resume that was refused: the next one can go on."""
        self.newest_config().unlink(missing_ok=True)
        self.path.with_name(f"source.resume-{len(self.content['resumes'])}.zip").unlink()
        self.content = before
        self.update()
        if self.lock:
            self.lock.close()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of earlier starts."""
        begun = time.monotonic()
        try:
            yield
        finally:
            before = self.content.get("seconds", {}).get(name, 0.0)
            with suppress(OSError):
                self.update(seconds={name: round(before + time.monotonic() - begun, 1)})

    def finish(self) -> None:
        self._end("finished", None)

    def _end(self, state: str, reason: str | None) -> None:
        self.update(state=state, reason=reason, ended=_now())
        if self.lock:
            self.lock.close()


def _only_writer(folder: Path) -> IO[str]:
    """Return the open lock of a run's folder, which the system lets go when the process ends.

    Raises UserError if another process trains in this folder.
    """
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder} is being trained by another process. Wait, or end it.") from None
    os.register_at_fork(after_in_child=lock.close)  # or else a worker would hold it too
    return lock


def _commit(root: Path) -> dict[str, Any]:
    """Return git's commit and whether files differ from it: nothing depends on them."""

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        except OSError:
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "torch": torch.__version__,  # which names the CUDA build too
    }
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return versions | {"cuda": torch.version.cuda, "cudnn": str(cudnn) if cudnn else None}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
