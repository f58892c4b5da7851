"""Bring the template's news: your files are merged, the engine and its tests are replaced whole.

cruft merges your files. Engine files that you edited are named first, and your edits are kept in
engine-edits.patch. All that changes is staged, so that `git reset --hard` undoes it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import UserError
from ..paths import project_root
from ..run.checkpoint_files import sha256

PATCH = "engine-edits.patch"
UNLINKED = """\
.cruft.json is missing: it says which commit of the template this project was made from. Write it:
  .venv/bin/cruft link ADDRESS-OF-THE-TEMPLATE --checkout COMMIT
with the answers of then, commit it, and make update again. UPGRADING.md in the template says how to
find the commit."""


def output_of(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Return what a command prints.

    Raises:
        UserError: it failed, with what it said.
    """
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | variables
    done = subprocess.run(command, cwd=cwd, env=environment, encoding="utf-8", **options)
    if done.returncode:
        words = [*map(str, command[:3]), "…"]
        raise UserError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def git(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    """Return what git prints. Raises UserError if it fails."""
    return output_of("git", *arguments, cwd=cwd, **variables)


def names(*arguments: str, cwd: Path) -> list[str]:
    """Return the files that a git command lists with -z."""
    return [name for name in git(*arguments, cwd=cwd).split("\0") if name]


def refuse_unsaved_work(root: Path) -> None:
    """Raise UserError unless all is committed: only then can an update be undone."""
    if not shutil.which("git"):
        raise UserError("There is no git: an update is a merge. Install git.")
    unsaved = git("status", "--short", cwd=root).splitlines()
    if unsaved:
        listed = "\n".join([*unsaved[:20], *(["…"] if unsaved[20:] else [])])
        raise UserError(f"Not committed:\n{listed}\nCommit or stash it, then: make update")


class Template:
    """A clone of the template, and the project as its commits generate it."""

    def __init__(self, address: str, answers: dict[str, Any], folder: Path) -> None:
        self.clone, self.folder = folder / "template", folder
        self.answers = {k: v for k, v in answers.items() if not k.startswith("_")}
        git("clone", "--quiet", address, self.clone, cwd=folder)

    def commit(self, reference: str) -> str:
        """Check out a branch, tag or commit and return the commit's name."""
        git("checkout", "--quiet", "--force", reference, cwd=self.clone)
        return git("rev-parse", "HEAD", cwd=self.clone).strip()

    def generate(self, commit: str) -> Path:
        """Return a folder with the project as this commit of the template generates it."""
        self.commit(commit)
        settings = self.folder / "cookiecutter.yaml"
        settings.write_text(json.dumps({"replay_dir": str(self.folder / "replay")}))
        command = [sys.executable, "-B", "-m", "cookiecutter", str(self.clone), "--no-input"]
        command += ["--config-file", str(settings), "--output-dir", str(self.folder / commit)]
        command += [f"{name}={answer}" for name, answer in self.answers.items()]
        output_of(*command, cwd=self.folder)
        return next((self.folder / commit).iterdir())

    def advice(self, version: str) -> str:
        """Return what UPGRADING.md says about the versions after this one."""
        text = (self.clone / "UPGRADING.md").read_text()
        sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
        newer = takewhile(lambda section: not section.startswith(f"## {version}\n"), sections)
        return "".join(newer).rstrip()


class Engine:
    """The engine and its tests in a project's folder."""

    def __init__(self, root: Path, package: str) -> None:
        self.root = root
        self.folders = (f"src/{package}/engine", "tests/engine")
        self.manifest = root / self.folders[0] / "MANIFEST"

    @property
    def version(self) -> str:
        return self.manifest.with_name("VERSION").read_text().strip()

    def edited(self, manifest: Path) -> list[str]:
        """Return the files that are not as the manifest says: changed, added or removed."""
        lines = manifest.read_text().splitlines()
        written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        tracked = names("ls-files", "-z", "--", *self.folders, cwd=self.root)
        present = (name for name in tracked if self.root / name != self.manifest)
        digests = {name: sha256(self.root / name) for name in present}
        return sorted(n for n in written.keys() | digests if written.get(n) != digests.get(n))

    def replace(self, new: Path) -> None:
        """Put the engine of another folder in the place of this one."""
        git("rm", "-r", "--quiet", "--ignore-unmatch", "--", *self.folders, cwd=self.root)
        for folder in self.folders:
            shutil.copytree(new / folder, self.root / folder, dirs_exist_ok=True)
        git("add", "--all", "--", *self.folders, cwd=self.root)


def remember(generated: Path, root: Path) -> str:
    """Write generated files into the project's git database and return the name of their tree.

    With them git can merge any edit, also one that was there before the project's first commit.
    """
    repository = git("rev-parse", "--absolute-git-dir", cwd=root).strip()
    index = str(generated.with_name("index"))
    settings = {"GIT_DIR": repository, "GIT_WORK_TREE": str(generated), "GIT_INDEX_FILE": index}
    git("add", "--all", "--force", ".", cwd=generated, **settings)
    return git("write-tree", cwd=generated, **settings).strip()


def write_patch(root: Path, tree: str, files: list[str], patch: Path) -> None:
    """Write how committed files differ from a tree, for `git apply -3` in the project's folder."""
    prefix = git("rev-parse", "--show-prefix", cwd=root).strip()  # of a project in a repository
    command = ["diff-tree", "-r", "-p", "--binary", "--full-index", f"--output={patch}"]
    command += [f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}", tree, "HEAD:./"]
    git(*command, "--", *(f":(top,literal){name}" for name in files), cwd=root)


def main(project: Any, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make update", description=__doc__)
    parser.add_argument(
        "--checkout", default="HEAD", help="the template's tag, branch or commit; else its newest"
    )
    known = parser.parse_args(arguments)
    root = project_root()
    refuse_unsaved_work(root)
    link = root / ".cruft.json"
    if not link.is_file():
        raise UserError(UNLINKED)
    state = json.loads(link.read_text("utf-8"))
    with TemporaryDirectory() as folder:
        template = Template(state["template"], state["context"]["cookiecutter"], Path(folder))
        return update(root, project.package, template, state["commit"], known.checkout)


def update(root: Path, package: str, template: Template, since: str, reference: str) -> int:
    """Move a project from one commit of the template to another and say what is left to do."""
    commit = template.commit(reference)
    old, new = template.generate(since), template.generate(commit)
    engine, newer = Engine(root, package), Engine(new, package)
    version = engine.version
    manifest = engine.manifest if engine.manifest.exists() else Engine(old, package).manifest
    if edited := engine.edited(manifest):
        print("You edited these files of the engine:", *edited, sep="\n  ")
    if commit == since and manifest.read_text() == newer.manifest.read_text():
        print(f"Nothing to do: this is the template's {version}, commit {commit[:7]}.")
        return 0
    pristine, patch = remember(old, root), template.folder / PATCH
    if edited:
        write_patch(root, pristine, edited, patch)
    cruft = [sys.executable, "-m", "cruft", "update", "--skip-apply-ask", "--checkout", commit]
    output_of(*cruft, cwd=root)
    if edited:
        shutil.copy(patch, root)
        print(f"They are replaced. {PATCH} keeps your edits: git apply -3 {PATCH}")
    engine.replace(new)
    git("add", ".cruft.json", cwd=root)
    print(f"Updated from {version} ({since[:7]}) to {newer.version} ({commit[:7]}).")
    print("All is staged: git diff --cached shows it, git reset --hard undoes it.")
    if advice := template.advice(version):
        print(f"\nUPGRADING.md of the template says:\n\n{advice}\n")
    conflicts = names("diff", "--name-only", "--diff-filter=U", "--relative", "-z", cwd=root)
    conflicts += names("ls-files", "--others", "--exclude-standard", "-z", "*.rej", cwd=root)
    if conflicts:
        print("The template and you changed the same lines of these files:", *conflicts, sep="\n  ")
        print("Choose between the marks <<<<<<< and >>>>>>>, then: git add FILE. For a lock:")
        print("  git checkout --theirs requirements.lock && make lock")
        return 3
    print("Next: make test lint, then git commit")
    return 0
