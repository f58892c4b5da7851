"""Update to a newer template: merge it into your files; replace the engine and its tests whole.

cruft generates the project from the old and from the new template, and git merges the difference
into your files. (cruft's own `update` would leave .rej files where a patch does not fit.) Engine
files that you edited are listed first, and your edits are saved in engine-edits.patch. All changes
are staged, so `git reset --hard` undoes them.

It needs git and cruft, but nothing from the project: UPGRADING.md in the template runs it in
projects that have no engine yet.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

LINK = ".cruft.json"  # which template, commit and answers the project was made from
PATCH = "engine-edits.patch"
UNLINKED = f"""\
{LINK} is missing. It records which commit of the template this project was made from. Create it:
  cruft link ADDRESS-OF-THE-TEMPLATE --checkout COMMIT
Give the same answers as then, commit the file, and update again. UPGRADING.md in the template
explains how to find the commit."""

CONFLICTS = """\
Edit the lines between <<<<<<< and >>>>>>>, then git add the file. The template has deleted a file
without these marks: git add keeps it, git rm deletes it. For a lock file:
git checkout --theirs requirements.lock && git add requirements.lock && make lock"""


def refuse(why: str) -> NoReturn:
    """Exit with status 2, as UserError does elsewhere: this file imports nothing of the engine."""
    print(f"error: {why}", file=sys.stderr)
    raise SystemExit(2)


def output_of(*command: str | Path, doing: str, cwd: Path, **variables: str) -> str:
    """Return a command's output. If it fails, exit with what it was `doing` and its errors."""
    environment = os.environ | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        output = f"{done.stdout}{done.stderr}"
        output = output.rpartition("Traceback (most recent call last):\n")[2]
        lines = (line for line in output.splitlines() if not line.startswith("  "))
        refuse("\n".join([f"{doing} failed:", *lines]))
    return done.stdout


def git(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    """Return git's output. If it fails, exit with its errors."""
    return output_of("git", *arguments, doing=f"git {arguments[0]}", cwd=cwd, **variables)


def names(*arguments: str, cwd: Path) -> list[str]:
    """Return the files that a git command lists with -z."""
    return [name for name in git(*arguments, cwd=cwd).split("\0") if name]


def refuse_unsaved_work(root: Path) -> None:
    """Exit unless everything is committed: only then can an update be undone."""
    if not shutil.which("git"):
        refuse("git is missing. It merges the update: install it.")
    if unsaved := git("status", "--short", cwd=root).splitlines():
        listed = "\n".join([*unsaved[:20], *(["…"] if unsaved[20:] else [])])
        refuse(
            f"These files are not committed:\n{listed}\nCommit or stash them, then update again."
        )


@dataclass(frozen=True)
class Generated:
    """The project generated from one commit of the template, stored in the project's git."""

    folder: Path
    link: dict
    whole: str  # git tree
    rest: str  # git tree without the engine

    @classmethod
    def at(cls, reference: str | None, link: dict, root: Path, folder: Path) -> "Generated":
        """Generate it from a commit, branch or tag, with the answers in `link`."""
        given = link["context"]["cookiecutter"]
        answers = {name: answer for name, answer in given.items() if not name.startswith("_")}
        command = [sys.executable, "-m", "cruft", "create", link["template"], "--no-input"]
        command += ["--extra-context", json.dumps(answers), "--output-dir", str(folder / "made")]
        command += ["--checkout", reference] if reference else []
        doing = f"Generating {link['template']} at {reference or 'its newest commit'}, see {LINK},"
        output_of(*command, doing=doing, cwd=root, _TYPER_STANDARD_TRACEBACK="1")
        made = next((folder / "made").iterdir())
        shutil.rmtree(made / ".git", ignore_errors=True)  # the template's hook creates a repository

        prefix = git("rev-parse", "--show-prefix", cwd=root).strip()  # of a subfolder
        place = folder / "top" / prefix
        place.parent.mkdir(parents=True, exist_ok=True)
        made.rename(place)
        into = {
            "GIT_DIR": git("rev-parse", "--absolute-git-dir", cwd=root).strip(),
            "GIT_WORK_TREE": str(folder / "top"),
            "GIT_INDEX_FILE": str(folder / "index"),
        }
        git("add", "--all", "--force", ".", cwd=place, **into)
        whole = git("write-tree", cwd=place, **into).strip()
        excluded = (*engine_folders(link), LINK)
        git("rm", "-r", "--cached", "--quiet", "--ignore-unmatch", *excluded, cwd=place, **into)
        rest = git("write-tree", cwd=place, **into).strip()
        return cls(place, json.loads((place / LINK).read_text("utf-8")), whole, rest)


def engine_folders(link: dict) -> tuple[str, str]:
    """Return the folders that belong to the template."""
    return f"src/{link['context']['cookiecutter']['__package_name']}/engine", "tests/engine"


def version(root: Path, link: dict) -> str:
    """Return the engine's version in a project folder."""
    file = root / engine_folders(link)[0] / "VERSION"
    return file.read_text().strip() if file.exists() else "a template without a version"


def edited_engine_files(root: Path, old: Generated) -> list[str]:
    """Return the engine's files that differ from its MANIFEST: changed, added or removed."""
    folders = engine_folders(old.link)
    own = f"{folders[0]}/MANIFEST"
    manifest = root / own if (root / own).exists() else old.folder / own
    if not manifest.exists():
        return []  # a project without an engine
    lines = manifest.read_text("utf-8").splitlines()
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    tracked = [name for name in names("ls-files", "-z", *folders, cwd=root) if name != own]
    there = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in tracked}
    return sorted(n for n in written.keys() | there.keys() if written.get(n) != there.get(n))


def write_patch(root: Path, old: Generated, files: list[str]) -> None:
    """Write a patch from the generated to the committed files, for `git apply -3`."""
    command = ["diff-tree", "-r", "-p", "--binary", "--full-index", f"--output={root / PATCH}"]
    git(*command, old.whole, "HEAD", "--", *(f":(literal){name}" for name in files), cwd=root)


def merge(root: Path, old: Generated, new: Generated) -> list[str]:
    """Merge the changes outside the engine; return the files that git could not merge."""
    roles = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    identity = {f"GIT_{role}": "torch-gpu-template" for role in roles}
    title = f"Update to the template's {version(new.folder, new.link)}"
    before = git("commit-tree", "-m", "Before", old.rest, cwd=root, **identity).strip()
    after = git("commit-tree", "-m", title, "-p", before, new.rest, cwd=root, **identity).strip()
    command = ["git", "-c", "merge.directoryRenames=false", "cherry-pick", "--no-commit", after]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8")
    conflicts = names("diff", "--name-only", "--diff-filter=U", "--relative", "-z", cwd=root)
    if done.returncode and not conflicts:
        refuse(f"git could not merge:\n{done.stdout}{done.stderr}".rstrip())
    return conflicts


def replace_engine(root: Path, new: Generated) -> None:
    """Replace the engine and the link file by the new ones."""
    folders = engine_folders(new.link)
    git("rm", "-r", "--quiet", "--ignore-unmatch", *folders, cwd=root)
    git("checkout", new.whole, "--", *folders, LINK, cwd=root)


def main(project: object = None, options: argparse.Namespace | None = None, *_: object) -> int:
    if options is None:  # run as a file, by make
        parser = argparse.ArgumentParser(prog="make update", description=__doc__)
        parser.add_argument(
            "--checkout", help="the template's tag, branch or commit; unset: newest"
        )
        options = parser.parse_args()
    root = Path.cwd()
    refuse_unsaved_work(root)
    if not (root / LINK).is_file():
        refuse(UNLINKED)
    link = json.loads((root / LINK).read_text("utf-8"))
    with TemporaryDirectory() as folder:
        old = Generated.at(link["commit"], link, root, Path(folder, "old"))
        new = Generated.at(options.checkout, link, root, Path(folder, "new"))
        return update(root, old, new)


def update(root: Path, old: Generated, new: Generated) -> int:
    """Update a project from `old` to `new`; return 3 if there are conflicts to resolve, else 0."""
    had, has = (version(folder, new.link) for folder in (root, new.folder))
    if edited := edited_engine_files(root, old):
        print("You edited these files of the engine:", *edited, sep="\n  ")
    mine, theirs = (f / engine_folders(new.link)[0] / "MANIFEST" for f in (root, new.folder))
    if old.rest == new.rest and mine.exists() and mine.read_bytes() == theirs.read_bytes():
        print(f"Nothing to do: this is {has}, the template's newest.")
        return 0
    conflicts = merge(root, old, new)
    replace_engine(root, new)
    if edited:
        write_patch(root, old, edited)
        print(f"They were replaced. To apply your edits again: git apply -3 {PATCH}")
    print(f"Updated from {had} to {has}: git diff --cached shows it, git reset --hard undoes it.")
    print(f"Read the section on {has} in UPGRADING.md: {new.link['template']}")
    if conflicts:
        print("The template and you changed the same part of these files:", *conflicts, sep="\n  ")
        print(CONFLICTS)
    print("Then: make test lint, git commit")
    return 3 if conflicts else 0


if __name__ == "__main__":
    sys.exit(main())
