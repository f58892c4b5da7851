"""Delete files that were not chosen, run `git init`, print the next steps.

A missing tool is no error, and a project generated without hooks works as well.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

# tojson writes ASCII and never three " in a row, so this is one literal for any answers.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = Path.cwd()

WANTED = {  # file: is it part of this project?
    "torch-cu130.lock": ANSWERS["cuda"] == "cu130",
    "compose.gpu.yaml": ANSWERS["cuda"] != "cpu",
}
NEXT = {
    "make setup": "install the locked packages into .venv",
    "make train": "train on handwritten digits, without a download",
}


def drop_unchosen() -> None:
    for name, wanted in WANTED.items():
        if not wanted:
            (PROJECT / name).unlink(missing_ok=True)


def git(*arguments: str) -> int | None:
    """Run git in the project's folder. Return its exit code, or None if git is not installed."""
    elsewhere = (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
    )  # set if a git hook runs cookiecutter
    env = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        return subprocess.run(["git", *arguments], env=env, capture_output=True).returncode
    except OSError:
        return None


def begin_repository() -> str:
    """Run `git init` unless the folder is already in a repository. Return what to print."""
    # check-ignore returns 1 in a repository that includes this folder. It returns 0 in one that
    # ignores it (as the template's build/) and 128 outside of any: then the project gets its own.
    if git("check-ignore", "--quiet", ".") == 1:
        return "It is inside an existing git repository, so no new one was created."
    if git("-c", "init.defaultBranch=main", "init", "--quiet") == 0:
        return "It is a git repository on branch main, without commits."
    return "It is not a git repository: install git and run `git init` in it."


def next_steps() -> str:
    """Return the commands to type, from the current folder."""
    here = Path(os.environ.get("PWD", PROJECT.parent)).resolve()
    folder = PROJECT.relative_to(here) if PROJECT.is_relative_to(here) else PROJECT
    steps = {f"cd {shlex.quote(str(folder))}": "enter the project", **NEXT}
    width = max(map(len, steps)) + 2
    return "\n".join(f"  {command:<{width}}# {does}" for command, does in steps.items())


def is_throwaway() -> bool:
    """Whether cruft check, diff or update generates into a temporary folder."""
    return "_commit" in ANSWERS and bool(re.fullmatch(r"tmp\w{8}", PROJECT.parent.name))


if __name__ == "__main__":
    drop_unchosen()
    if not is_throwaway():
        sys.stdout.reconfigure(errors="backslashreplace")  # a Windows console may lack characters
        print(f"\nCreated {PROJECT.name}. {begin_repository()}\n\nNext:\n{next_steps()}\n")
