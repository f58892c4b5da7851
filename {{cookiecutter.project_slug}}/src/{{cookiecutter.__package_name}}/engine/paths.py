"""Where things are: the project, the user's cache, and files that a configuration names."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def project_root() -> Path:
    """Return the project's folder: above src/, or at or above the working directory.

    Raises UserError if there is none.
    """
    for folder in (Path(__file__).parents[3], Path.cwd(), *Path.cwd().parents):
        if (folder / "configs" / "base.yaml").is_file():
            return folder
    raise UserError(f"No configs/base.yaml in or above {Path.cwd()}. Run this in the project.")


def template_version() -> str:
    """Return the version of the template that this engine comes from."""
    return (Path(__file__).parent / "VERSION").read_text().strip()


def cache_folder() -> Path:
    """Return the user's cache folder. Everything in it can be recreated."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def resolve_path(path: str, must_exist: bool = True) -> Path:
    """Return a path of the configuration, from the working directory or the project's folder.

    Raises UserError if it must exist and does not.
    """
    here = Path(path).expanduser().absolute()
    if here.exists():
        return here
    from_project = project_root() / path
    if must_exist and not from_project.exists():
        raise UserError(f"{here} does not exist. Create it, or set --data.options.path.")
    return from_project


def shown(path: Path) -> str:
    """Return the path relative to the working directory if it is inside it, else absolute."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[bool]:
    """Create a folder and lock it within the block; yield False if it can't be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a read-only folder, or a file system without locks
        yield False
        return
    with lock:
        yield True
