"""run.json and source.zip: what reproduces a run, recorded before its first step."""

import fcntl
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import torch
import yaml

from ..contract import Facts
from ..errors import FULL
from ..hashing import sha256
from ..json_text import to_json
from ..paths import template_version
from .checkpoint_files import write_atomically
from .interruption import Interrupted
from .runs import being_trained, read_record
from .source import commit, pack_source

RESERVE = 1 << 16  # bytes that are freed to record how a run ended if its disk is full
BLOCK = 4096  # bytes in which file systems give room to a file
PACKAGES = (
    *("torch", "torchvision", "lightning", "torchmetrics", "numpy", "scikit-learn", "scipy"),
    *("transformers", "tokenizers"),
)


class RunRecord:
    """The content of run.json. If the state is `running` and its process is gone, it was killed."""

    def __init__(self, folder: Path) -> None:
        self.path, self.reserve = folder / "run.json", folder / ".reserve"
        self.lock: IO[str] | None = None
        self.open = False  # whether this process has to record how the run ends
        self.content: dict[str, Any] = {"resumes": []}
        if self.path.exists():
            self.content = read_record(self.path)

    @classmethod
    def start(cls, folder: Path, root: Path, recipe: str, config: str, **content: Any) -> Self:
        """Write source and configuration of a run that starts or resumes, then run.json.

        Raises UserError if another process trains in the folder.
        """
        lock, record = _only_writer(folder), cls(folder)
        record.lock = lock
        resuming, resumes = record.path.exists(), record.content["resumes"]
        resume = f".resume-{len(resumes) + 1}" if resuming else ""
        archive = f"source{resume}.zip"
        (folder / f"config{resume}.yaml").write_text(config, encoding="utf-8")
        content |= {
            "config": read_yaml(config),
            "source": pack_source(root, folder / archive) | {"commit": commit(root)},
            "locks": {path.name: sha256(path) for path in root.glob("*.lock")},
            "template": template_version(),
            "versions": _versions(),
        }
        record.content |= {"results": {}, "reason": None, "ended": None}
        record.reserve.write_bytes(os.urandom(RESERVE))  # which no file system compresses
        record.open = True
        if resuming:
            record.update(state="running", resumes=[*resumes, {"time": _now(), **content}])
        else:
            record.update(state="running", started=_now(), recipe=recipe, **content)
        return record

    def update(self, **content: Any) -> None:
        """Set these entries and write the record; mappings are merged into existing ones."""
        for key, value in content.items():
            old = self.content.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                value = old | value
            self.content[key] = value
        text = to_json(_without_null(self.content), indent=2, default=str) + "\n"
        try:
            write_atomically(self.path, text)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.reserve.unlink(missing_ok=True)
            _write_on_full_disk(self.path, text)

    def update_start(self, **content: Any) -> None:
        """Set these entries of the newest start and write the record."""
        self.newest_start().update(content)
        self.update()

    def newest_start(self) -> dict[str, Any]:
        """Return what was recorded when the run last started or resumed."""
        return self.content["resumes"][-1] if self.content["resumes"] else self.content

    def newest_config(self) -> Path:
        """Return the configuration file of the newest start: each resume has its own."""
        resumes = len(self.content["resumes"])
        return self.path.with_name(f"config.resume-{resumes}.yaml" if resumes else "config.yaml")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record whether the block is interrupted or fails, and why."""
        try:
            with self.timed("total"):
                yield
        except BaseException as error:
            self.end_by(error)
            raise

    def end_by(self, error: BaseException) -> None:
        """Record that this exception ended the run, if no end is recorded yet."""
        if not self.open:
            return
        with suppress(OSError):  # the disk may be full, which may be why it failed
            if isinstance(error, Interrupted):
                self.end("interrupted", error.reason)
            else:
                self.end("failed", f"{type(error).__name__}: {error}")

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

    def end(self, state: str, reason: str | None = None) -> None:
        """Record how the run ended, and release the lock of its folder."""
        self.update(state=state, reason=reason, ended=_now())
        self.open = False
        self.reserve.unlink(missing_ok=True)
        if self.lock:
            self.lock.close()


def _write_on_full_disk(path: Path, text: str) -> None:
    """Replace a file's text once more, or else overwrite it where that takes no further block."""
    try:
        write_atomically(path, text)
    except OSError:
        new, old = len(text.encode()), path.stat().st_size if path.exists() else 0
        if new > -(-old // BLOCK) * BLOCK:
            raise
        with path.open("r+", encoding="utf-8", newline="") as file:
            file.write(text)
            file.truncate()


def _only_writer(folder: Path) -> IO[str]:
    """Return the open lock of a run's folder. The system releases it when the process ends.

    Raises UserError if another process trains in this folder.
    """
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise being_trained(folder) from None
    except OSError as error:
        print(
            f"note: {folder} can't be locked ({error.strerror}): train this run in only one"
            " process at a time.",
            file=sys.stderr,
        )
    os.register_at_fork(after_in_child=lock.close)  # or loader workers would hold the lock too
    return lock


def _versions() -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        **{name: importlib.metadata.version(name) for name in PACKAGES if _is_installed(name)},
        "python": platform.python_version(),
        "torch": torch.__version__,  # with the CUDA build
        "cuda": torch.version.cuda,
        "cudnn": str(cudnn) if cudnn else None,
    }


def _is_installed(name: str) -> bool:
    with suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


def facts_in(run: Path) -> Facts:
    """Return the facts of the data that a run was trained on, from its record."""
    return facts_of(read_record(run / "run.json")["data"])


def facts_of(data: dict[str, Any]) -> Facts:
    """Return the facts about the data in run.json, also from the format of older versions."""
    if "rows" in data:
        shapes = {name: tuple(shape) for name, shape in data["shapes"].items()}
        tuples = {name: tuple(data[name]) for name in ("classes", "remarks")}
        known = {name: data[name] for name in Facts.__dataclass_fields__ if name in data}
        return Facts(**{**known, **tuples, "shapes": shapes})
    height, width, channels = data["image_shape"]
    streamed = data["loader"].startswith("files")
    from_files = data.get("from_files", data["source"] == "folder")
    loader = "streaming" if streamed else "resident"
    return Facts(
        data["source"],
        data["images"],
        data["fingerprint"],
        unit="images",
        shapes={"images": (channels, height, width)},
        extra={"from_files": from_files, "jpeg": from_files, "loader": loader},
    )


def read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _without_null(content: Any) -> Any:
    """Return JSON without null values: the decisions have the values that were used."""
    if isinstance(content, dict):
        return {key: _without_null(value) for key, value in content.items() if value is not None}
    return [_without_null(each) for each in content] if isinstance(content, list) else content


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
