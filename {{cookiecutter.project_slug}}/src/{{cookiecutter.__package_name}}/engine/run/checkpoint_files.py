"""Write checkpoint files atomically, and verify them by SHA-256."""

import copy
import errno
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch.utils.serialization import config as saving

from ..errors import FULL, UserError
from ..hashing import sha256
from ..paths import shown
from .hashed_file import HashedFile
from .runs import read_record

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# One line per digest, written before its file is renamed into place. So whenever a process is
# killed, the digest of every file with a checkpoint's name is listed.
DIGESTS = "digests.txt"
# What a file system answers that can't do what was asked: many shares can't sync a folder.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
DIGESTS_KEPT = 3  # per name: of the next file, the current one and the one before it


class VerifiedIO(TorchCheckpointIO):
    """Write checkpoints from a copy, in threads, while training continues.

    Lightning's AsyncCheckpointIO (2.6.6) does the same, but loses the layers' versions.
    """

    def __init__(self) -> None:
        saving.save.use_pinned_memory_for_d2h = (
            True  # it is copied from a GPU in a fifth of the time
        )
        self.drafting, self.finishing = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        self.on_gpu = False
        self.writing: dict[str, Future] = {}  # by the file's name
        self.stream: torch.cuda.Stream | None = None  # one for all writes: torch reuses 32
        self.begun = self.took = 0.0  # seconds, for all files of the newest save

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        full = self.on_gpu and torch.cuda.mem_get_info()[0] < torch.cuda.memory_allocated()
        self.write(checkpoint if full else copy.deepcopy(checkpoint), Path(path))
        if full:  # memory may not fit both a copy and a training step
            self.wait()

    def write(self, content: dict[str, Any], path: Path) -> None:
        """Queue content that no one changes any more.

        Files are written side by side, and get their names in the order in which they were queued.
        """
        self.wait(path.name)
        if not self.writing:
            self.begun = time.monotonic()
        if self.on_gpu:
            self.stream = self.stream or torch.cuda.Stream()
            self.stream.wait_stream(torch.cuda.current_stream())
        draft = self.drafting.submit(self._draft, content, path)
        self.folder = path.parent
        self.writing[path.name] = self.finishing.submit(self._finish, draft, path)

    def _draft(self, content: dict[str, Any], path: Path) -> str:
        weights = content.get("state_dict", {})
        with torch.cuda.stream(self.stream):
            weights.update((name, tensor.cpu()) for name, tensor in weights.items())
            return _write_draft(content, path)

    def _finish(self, draft: Future, path: Path) -> None:
        _keep_draft(path, draft.result())
        self.took = time.monotonic() - self.begun

    def wait(self, *names: str) -> None:
        """Wait until these files, or all, are written. Raises UserError if a write has failed."""
        for name in names or tuple(self.writing):
            if name in self.writing:
                try:
                    self.writing.pop(name).result()
                except OSError as error:
                    self.settle()  # the message says which files there are
                    raise not_written(self.folder, error) from error

    def collect(self) -> None:
        """Raise the error of a write that has failed by now."""
        for name in [name for name, write in self.writing.items() if write.done()]:
            self.wait(name)

    def settle(self) -> None:
        """Wait for all writes. Their errors are not reported: another one has ended the run."""
        wait(self.writing.values())

    def teardown(self) -> None:
        """Do nothing: the last files may be written while the run ends."""


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Save the content atomically. An existing last.ckpt becomes previous.ckpt.

    Raises UserError if the folder can't be written to, or the disk is full.
    """
    try:
        _keep_draft(path, _write_draft(content, path))
    except OSError as error:
        raise not_written(path.parent, error) from error


def _write_draft(content: dict[str, Any], path: Path) -> str:
    """Write a checkpoint to its draft, and return its SHA-256."""
    with _dropped_on_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with HashedFile(_draft_of(path), fsync) as file:
            torch.save(content, file)  # type: ignore[arg-type]
        return file.sha256.hexdigest()


def _keep_draft(path: Path, digest: str) -> None:
    """Give a draft its name."""
    folder = path.parent
    with _dropped_on_error(path):
        _add_digest(folder, path.name, digest)
        if path.name == LAST and path.exists():
            path.replace(path.with_name(PREVIOUS))
        _draft_of(path).replace(path)
        fsync(folder)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


@contextmanager
def _dropped_on_error(path: Path) -> Iterator[None]:
    """Delete the draft of a checkpoint that can't be written, and raise the OSError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError while it handles OSError
        with suppress(OSError):
            _draft_of(path).unlink(missing_ok=True)
        for reason in (error, error.__context__):
            if isinstance(reason, OSError):
                raise reason from None
        raise OSError(errno.EIO, "the file is incomplete") from error


def not_written(folder: Path, error: OSError) -> UserError:
    """Return the error of a checkpoint that was not written to a folder: why, and what is left."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        with suppress(OSError):
            free = shutil.disk_usage(folder).free / 1e6
            why += f": the disk or quota is full ({free:,.1f} MB free)"
    left = {path.name for path in folder.glob("*.ckpt")}
    kept, then = "No earlier one is there.", "make train"
    if left & {LAST, PREVIOUS}:
        kept, then = "Earlier checkpoints are kept.", "make resume"
    elif left:
        kept = f"Only the best weights are kept: make evaluate RUN={shown(folder.parent)}."
    return UserError(
        f"No checkpoint could be written to {folder}: {why}. {kept} Free space or make the folder"
        f" writable, then: {then}"
    )


def is_intact(path: Path) -> bool:
    """Return whether a file has a recorded SHA-256; True if its folder has no digests."""
    try:
        known = _digests(path.parent)
        return not known or sha256(path) in {digest for digest, _ in known}
    except OSError:
        return False


def keep_only_best(folder: Path) -> None:
    """Delete last.ckpt and previous.ckpt, which hold the optimizer's state; not without a best."""
    if (folder / BEST).is_file() and is_intact(folder / BEST):
        for name in (LAST, PREVIOUS):
            (folder / name).unlink(missing_ok=True)


def has_only_best(folder: Path) -> bool:
    """Return whether a run has its best weights and nothing to resume from."""
    return [path.name for path in folder.glob("checkpoints/*.ckpt")] == [BEST]


def find_checkpoint(folder: Path, *names: str) -> Path:
    """Return the first intact checkpoint of a run; names are `best`, `last` and `previous`.

    Raises UserError if there is none.
    """
    paths = [folder / "checkpoints" / f"{name}.ckpt" for name in names]
    found = [path for path in paths if path.is_file()]
    if not found and has_only_best(folder):
        best = folder / "checkpoints" / BEST
        raise UserError(
            f"{shown(folder)} has only its best weights ({_why_only_best(folder)}): it can be"
            f" evaluated and served, not resumed. A new run from them: --model.pretrained"
            f" {shown(best)}"
        )
    if not found:
        raise UserError(
            f"{folder} has no checkpoint: the run ended before its first. Start a new run."
        )
    for path in filter(is_intact, found):
        if path != found[0]:
            print(f"{found[0].name} is damaged; using {path.name} instead.", flush=True)
        return path
    raise UserError(
        f"{' and '.join(map(str, found))}: damaged, the SHA-256 is not the recorded one."
        " Restore a copy, choose another file with --ckpt_path, or start a new run."
    )


def _why_only_best(folder: Path) -> str:
    record = read_record(folder / "run.json")
    newest = [record, *record.get("resumes", [])][-1]
    kept = (newest.get("config", {}).get("checkpoints") or {}).get("keep")
    if kept == "best" and record.get("state") == "finished":
        return "checkpoints.keep"
    return f"{LAST} was not written, or is deleted"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it always has either its old or its new content."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8", newline="")
        fsync(draft)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)  # the disk may be full
        raise


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, survive a power failure.

    Do nothing where the file system can't do that.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        unreadable = path.is_dir() and error.errno in (errno.EACCES, errno.EISDIR, errno.EBADF)
        if error.errno not in UNSUPPORTED and not unreadable:
            raise


def _digests(folder: Path) -> list[tuple[str, str]]:
    """Return (digest, name) of the written files, oldest first."""
    table = folder / DIGESTS
    lines = table.read_text(errors="replace").splitlines() if table.exists() else []
    return [(line[:64], line[66:]) for line in lines]


def _add_digest(folder: Path, name: str, digest: str) -> None:
    known = _digests(folder)
    older = [entry for entry in known if entry[1] == name][: -DIGESTS_KEPT + 1]
    kept = [*(entry for entry in known if entry not in older), (digest, name)]
    write_atomically(folder / DIGESTS, "".join(f"{digest}  {name}\n" for digest, name in kept))
