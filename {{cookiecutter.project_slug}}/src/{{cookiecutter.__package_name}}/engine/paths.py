"""Where things are: the project, the user's cache, and files that a configuration names."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def project_root() -> Path:
    """Return the project's folder: the one above src/, or else the working directory's."""
    for folder in (Path(__file__).parents[3], Path.cwd(), *Path.cwd().parents):
        if (folder / "configs" / "base.yaml").is_file():
            return folder
    raise UserError(f"No configs/base.yaml above {Path.cwd()}: start in the project's folder.")


def template_version() -> str:
    """Return the version of the template that this engine is from."""
    return (Path(__file__).parent / "VERSION").read_text().strip()


def cache_folder() -> Path:
    """Return the folder of what can be made again, the user's own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def resolve_path(path: str, must_exist: bool = True) -> Path:
    """Return where a path of the configuration leads: from here, or else from the project's folder.

    Raises UserError if there is nothing, and there must be.
    """
    here = Path(path).expanduser().absolute()
    if here.exists():
        return here
    from_project = project_root() / path
    if must_exist and not from_project.exists():
        raise UserError(f"{here} does not exist. Put it there, or set --data.options.path.")
    return from_project


def shown(path: Path) -> str:
    """Return the path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[bool]:
    """Make a folder and keep others waiting while it is used; false if nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a folder that can only be read, or a file system without locks
        yield False
        return
    with lock:
        yield True
