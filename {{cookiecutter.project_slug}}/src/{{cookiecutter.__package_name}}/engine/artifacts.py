"""The files in artifacts/ of a run's folder: what its weights depend on, such as a tokenizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_run: ContextVar[Path | None] = ContextVar("run", default=None)


@contextmanager
def artifacts_of(run: Path | None) -> Iterator[None]:
    """Within the block, artifact() finds the files of this run; None: of no run."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


def artifact(name: str) -> Path | None:
    """Return the file that a run kept by this name, if it resumes, is evaluated or served.

    None if a new run starts, or the run did not keep such a file.
    """
    run = _run.get()
    file = run / "artifacts" / name if run else None
    return file if file is not None and file.is_file() else None
