"""Where things are: the project, the user's cache, and files that a configuration names."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """Return the user's cache folder: among temporary files if the user has no home.

    Everything in it can be recreated.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    with suppress(RuntimeError):
        return Path.home() / ".cache"
    return spare_cache_folder()


def spare_cache_folder() -> Path:
    """Create and return a cache folder among temporary files that only this user can write to.

    Raises OSError if there is no folder for temporary files.
    """
    folder = Path(tempfile.gettempdir()) / f"cache-of-user-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # somebody else made it
        return Path(tempfile.mkdtemp(prefix="cache-"))
    return folder


def is_writable(folder: Path) -> bool:
    """Create a folder if needed; return whether files can be created in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


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
    """Create a folder and lock it within the block; yield False if it can't be written to.

    Without a lock where the file system knows none: then two processes may write at once.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError:
        yield False
        return
    with lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield True
