"""Whether this process has the environment that the project names: its packages and its code."""

import importlib.metadata
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import UserError

VERSION = re.compile(r"^\s*\"?([\w.-]+)==([^\s;,\\\"]+)", re.MULTILINE)
COMPARED = ("torch", "torchvision", "lightning", "numpy")  # at each start


def locked_versions(project: Path, *names: str) -> dict[str, set[str]]:
    """Return the versions of each package in the project's locks, or else in these files."""
    found: dict[str, set[str]] = {}
    files = [path for pattern in ("*.lock", *names) for path in sorted(project.glob(pattern))]
    for file in files:
        for name, version in VERSION.findall(file.read_text(encoding="utf-8")):
            if file.suffix == ".lock" or _normal(name) not in found:
                found.setdefault(_normal(name), set()).add(version)
    return found


def not_as_locked(source: Path) -> list[str]:
    """Return the installed packages whose version differs from the recorded locks."""
    locked, installed = locked_versions(source), dict[str, str]()
    for package in importlib.metadata.distributions():  # an import finds the first
        installed.setdefault(_normal(package.metadata["Name"]), package.version)
    return [
        f"{name} was locked as {' or '.join(sorted(locked[name]))}, is {installed[name]}"
        for name in sorted(locked.keys() & installed.keys())
        if _differs(installed[name], locked[name])
    ]


def warn_of_other_versions(root: Path) -> None:
    """Print one line if torch, or what results depend on like it, is not the project's version."""
    locked, differing = locked_versions(root, "pyproject.toml"), list[str]()
    for name in COMPARED:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.version(name)
            if name in locked and _differs(installed, locked[name]):
                wanted = " or ".join(sorted(locked[name]))
                differing.append(f"{name} is {installed}, but this project names {wanted}")
    if differing:
        print(
            f"warning: {'; '.join(differing)}. Speed and results may differ. Install the"
            " project's versions with: rm .venv/.ready-* && make setup",
            file=sys.stderr,
        )


def _differs(installed: str, locked: set[str]) -> bool:
    return installed.split("+")[0] not in {version.split("+")[0] for version in locked}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_own_code(package: str) -> None:
    """Raise UserError if the working directory is another copy of the project than the code.

    That happens in a folder that was copied with its .venv: the environment leads to the first
    folder's code. A folder in PYTHONPATH is used on purpose.
    """
    module = sys.modules.get(package)
    if module is None:  # a program of its own calls the engine
        return
    running = Path(str(module.__file__)).resolve().parents[1]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if running in (Path(folder).resolve() for folder in added if folder):
        return
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "src" / package / "__main__.py").is_file():
            if (folder / "src").resolve() != running:
                raise UserError(
                    f"This environment belongs to {running.parent}: its code would run, not that"
                    f" of {folder}. Call make, which uses this folder's code, or make the folder"
                    " an environment of its own: rm -r .venv && make setup"
                )
            return
