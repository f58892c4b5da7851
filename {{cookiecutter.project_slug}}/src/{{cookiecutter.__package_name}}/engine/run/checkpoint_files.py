"""Checkpoint files that are whole or not there: written beside their place, known by SHA-256."""

import copy
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ..errors import UserError
from ..hashing import sha256

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# A line a digest, written before its file takes its place: so whenever a process is killed,
# whatever stands under a checkpoint's name has its digest in it.
DIGESTS = "digests.txt"
DIGESTS_KEPT = 3  # of each name: that of the file to come, of the one there, of the one before it


class VerifiedIO(TorchCheckpointIO):
    """Lightning's way to files: whole ones, written from a copy while training goes on.

    Its own for that (AsyncCheckpointIO, 2.6.6) loses the layers' versions.
    """

    def __init__(self) -> None:
        self.thread, self.on_gpu = ThreadPoolExecutor(1), False
        self.writing: list[Future] = []
        self.stream: torch.cuda.Stream | None = None  # one for good: torch hands out 32 in turn
        self.took = 0.0  # seconds, for all files of the newest save

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        full = self.on_gpu and torch.cuda.mem_get_info()[0] < torch.cuda.memory_allocated()
        self.write(checkpoint if full else copy.deepcopy(checkpoint), Path(path))
        if full:  # there may be no room for a copy beside a step
            self.wait()

    def write(self, content: dict[str, Any], path: Path) -> None:
        """Write what nobody else changes any more, when what was to be written before is."""
        if self.on_gpu:
            self.stream = self.stream or torch.cuda.Stream()
            self.stream.wait_stream(torch.cuda.current_stream())
        self.writing.append(self.thread.submit(self._write, content, path))

    def _write(self, content: dict[str, Any], path: Path) -> None:
        begun, weights = time.monotonic(), content.get("state_dict", {})
        with torch.cuda.stream(self.stream):
            weights.update((name, tensor.cpu()) for name, tensor in weights.items())
            write_checkpoint(content, path)
        self.took += time.monotonic() - begun

    def wait(self, for_all: bool = True) -> None:
        """Wait for what is being written, or only look what is; raises what the writing met."""
        while self.writing and (for_all or self.writing[0].done()):
            self.writing.pop(0).result()

    def teardown(self) -> None:
        with suppress(UserError):  # what ended the run is said instead
            self.wait()


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Save the content to a file, whole or not at all; last.ckpt first becomes previous.ckpt."""
    folder, draft = path.parent, path.with_name(f".{path.name}.new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(content, draft)
        fsync(draft)
        _add_digest(folder, path.name, sha256(draft))
        if path.name == LAST and path.exists():
            path.replace(path.with_name(PREVIOUS))
        draft.replace(path)
        fsync(folder)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or "the disk took only a part of it"
        raise UserError(
            f"No checkpoint could be written to {folder}: {reason}. What was there is kept. Free"
            " space or make the folder writable, then: make resume"
        ) from error


def is_intact(path: Path) -> bool:
    """Return whether a file's bytes are those that were written; without digests it is believed."""
    try:
        known = _digests(path.parent)
        return not known or sha256(path) in {digest for digest, _ in known}
    except OSError:
        return False


def find_checkpoint(folder: Path, *names: str) -> Path:
    """Return the first of a run's checkpoints `best`, `last` and `previous` that is whole."""
    paths = [folder / "checkpoints" / f"{name}.ckpt" for name in names]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise UserError(f"{folder} has no checkpoint: it ended before its first. Start a new run.")
    for path in filter(is_intact, found):
        if path != found[0]:
            print(f"{found[0].name} is damaged; {path.name} is taken instead.", flush=True)
        return path
    raise UserError(
        f"{' and '.join(map(str, found))}: damaged, the bytes are not those that were written."
        " Bring back a copy, choose another file with --ckpt_path, or start a new run."
    )


def write_atomically(path: Path, text: str) -> None:
    """Write a text file such that at any moment it is whole: as before, or as now."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, newline="")
    fsync(draft)
    draft.replace(path)


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, would survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digests(folder: Path) -> list[tuple[str, str]]:
    """Return (digest, name) of the files that were written, in that order."""
    table = folder / DIGESTS
    lines = table.read_text(errors="replace").splitlines() if table.exists() else []
    return [(line[:64], line[66:]) for line in lines]


def _add_digest(folder: Path, name: str, digest: str) -> None:
    known = _digests(folder)
    older = [entry for entry in known if entry[1] == name][: -DIGESTS_KEPT + 1]
    kept = [*(entry for entry in known if entry not in older), (digest, name)]
    write_atomically(folder / DIGESTS, "".join(f"{digest}  {name}\n" for digest, name in kept))
