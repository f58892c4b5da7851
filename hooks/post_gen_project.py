"""Drop what was not chosen, begin a git repository, say what comes next.

Nothing fails here because a tool is missing, and a project made without hooks works as well.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

# tojson writes ASCII, never with three " in a row: this stays one literal, whatever the answers.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = Path.cwd()

WANTED = {  # file: is it part of this project?
    "torch-cu130.lock": ANSWERS["cuda"] == "cu130",
    "compose.gpu.yaml": ANSWERS["cuda"] != "cpu",
}
NEXT = {
    "make setup": "the environment, in .venv",
    "make train": "train on handwritten digits that need no download",
}


def drop_unchosen() -> None:
    for name, wanted in WANTED.items():
        if not wanted:
            (PROJECT / name).unlink(missing_ok=True)


def git(*arguments: str) -> int | None:
    """git's exit code in the project's folder; None when there is no git."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set where a git hook bakes
    env = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        return subprocess.run(["git", *arguments], env=env, capture_output=True).returncode
    except OSError:
        return None


def begin_repository() -> str:
    """A repository of its own, unless the folder is already part of one. Returns what to tell."""
    # check-ignore answers 1 in a repository that takes this folder in; 0 in one that ignores it (as
    # the template's own build/) and 128 outside any: there the project gets its own.
    if git("check-ignore", "--quiet", ".") == 1:
        return "It lies in a git repository already, which was left as it is."
    if git("-c", "init.defaultBranch=main", "init", "--quiet") == 0:
        return "It is a git repository, on branch main, with nothing committed yet."
    return "It is no git repository yet: install git and run `git init` in it."


def next_steps() -> str:
    """The commands to type, from where the person stands."""
    here = Path(os.environ.get("PWD", PROJECT.parent)).resolve()
    folder = PROJECT.relative_to(here) if PROJECT.is_relative_to(here) else PROJECT
    steps = {f"cd {shlex.quote(str(folder))}": "into the project", **NEXT}
    width = max(map(len, steps)) + 2
    return "\n".join(f"  {command:<{width}}# {does}" for command, does in steps.items())


def is_throwaway() -> bool:
    """cruft check, diff and update bake into temporary folders that nobody will work in."""
    return "_commit" in ANSWERS and bool(re.fullmatch(r"tmp\w{8}", PROJECT.parent.name))


if __name__ == "__main__":
    drop_unchosen()
    if not is_throwaway():
        sys.stdout.reconfigure(errors="backslashreplace")  # a Windows console may lack letters
        print(f"\nMade {PROJECT.name}. {begin_repository()}\n\nNext:\n{next_steps()}\n")
