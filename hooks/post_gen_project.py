"""Delete files that were not chosen, write what `make update` needs, run `git init`, print the next
steps.

A missing tool is no error, and a project generated without hooks works as well.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

# tojson writes ASCII and never three " in a row, so this is one literal for any answers.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = Path.cwd()
ENGINE = PROJECT / "src" / ANSWERS["__package_name"] / "engine"

WANTED = {  # file: is it part of this project?
    "torch-cu130.lock": ANSWERS["cuda"] == "cu130",
    "compose.gpu.yaml": ANSWERS["cuda"] != "cpu",
}
OF_IMAGES = (
    "configs/*.yaml",
    f"src/{ANSWERS['__package_name']}/augment.py",
    f"src/{ANSWERS['__package_name']}/engine/images",
    "tests/test_*.py",
    "tests/engine/test_*.py",
    "tests/engine/digit_files.py",
    "tests/engine/served.py",
    "tests/engine/tiff_written.py",
)
OF_EVERY_TASK = {
    "base.yaml",
    "test_configs.py",
    "test_contract.py",
    "test_decisions.py",
    "test_hardware.py",
    "test_makefile.py",
    "test_package_indexes.py",
    "test_resume.py",
    "test_step_checks.py",
}
NEXT = {
    "make setup": "install the locked packages into .venv",
    "make train": {
        "images": "train on handwritten digits, without a download",
        "text": "train on the names of languages, without a download",
    }[ANSWERS["task"]],
}


def drop_unchosen() -> None:
    for name, wanted in WANTED.items():
        if not wanted:
            (PROJECT / name).unlink(missing_ok=True)


def keep_one_task() -> None:
    """Replace what is about images by the files of another task, if one was chosen."""
    own = PROJECT / "tasks" / ANSWERS["task"]
    if own.is_dir():
        for pattern in OF_IMAGES:
            for path in PROJECT.glob(pattern):
                if path.name not in OF_EVERY_TASK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(own, PROJECT, dirs_exist_ok=True)
    shutil.rmtree(PROJECT / "tasks", ignore_errors=True)


def write_manifest() -> None:
    """Write the SHA-256 of each file of the engine and its tests, for `sha256sum --check`."""
    manifest = ENGINE / "MANIFEST"
    manifest.unlink(missing_ok=True)
    found = (path for top in (ENGINE, PROJECT / "tests" / "engine") for path in top.rglob("*"))
    files = (p for p in sorted(found) if p.is_file() and "__pycache__" not in p.parts)
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(PROJECT).as_posix()}\n"
        for path in list(files)
    )
    manifest.write_text("".join(lines), newline="\n")


def git(*arguments: str, folder: Path = PROJECT) -> tuple[int | None, str]:
    """Run git in a folder. Return its exit code, None if git is not installed, and its output."""
    elsewhere = (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
    )  # set if a git hook runs cookiecutter
    env = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=env, capture_output=True, encoding="utf-8"
        )
    except OSError:
        return None, ""
    return done.returncode, done.stdout.strip()


def link_to_template() -> None:
    """Write .cruft.json as `cruft create` does, which brings its own, if the commit is known."""
    given, repository = ANSWERS["_template"], ANSWERS.get("_repo_dir")
    if "_commit" in ANSWERS or not repository:
        return
    folder = Path(os.environ.get("PWD", PROJECT.parent), repository)
    if not (folder / ".git").exists() or git("status", "--porcelain", folder=folder) != (0, ""):
        return  # no repository, or one whose commit is not what was baked
    address = str(folder.resolve())
    if given != repository:  # cookiecutter has cloned it
        address = git("remote", "get-url", "origin", folder=folder)[1] or address
    own = ("_output_dir", "_repo_dir", "_checkout")
    content = {
        "template": re.sub(r"^(https?://)[^/@]*@", r"\1", address),  # without a password
        "commit": git("rev-parse", "HEAD", folder=folder)[1],
        "checkout": None,
        "context": {"cookiecutter": {k: v for k, v in ANSWERS.items() if k not in own}},
        "directory": None,
    }
    text = json.dumps(content, ensure_ascii=False, indent=2, separators=(",", ": "))
    (PROJECT / ".cruft.json").write_text(text + "\n", encoding="utf-8")


def begin_repository() -> str:
    """Run `git init` unless the folder is already in a repository. Return what to print."""
    # check-ignore returns 1 in a repository that includes this folder. It returns 0 in one that
    # ignores it (as the template's build/) and 128 outside of any: then the project gets its own.
    if git("check-ignore", "--quiet", ".")[0] == 1:
        return "It is inside an existing git repository, so no new one was created."
    if git("-c", "init.defaultBranch=main", "init", "--quiet")[0] == 0:
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
    keep_one_task()
    write_manifest()
    link_to_template()
    if not is_throwaway():
        sys.stdout.reconfigure(errors="backslashreplace")  # a Windows console may lack characters
        print(f"\nCreated {PROJECT.name}. {begin_repository()}\n\nNext:\n{next_steps()}\n")
