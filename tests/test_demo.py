"""`make demo` in a bare clone, and what its owner does next in the project that it made."""

import json
import os
import re

import golden
import pytest
from conftest import ENVIRONMENT, QUESTIONS, BakedProject, cpu_seconds, execute, git


@pytest.fixture(scope="session")
def demo(template, tmp_path_factory) -> BakedProject:
    """The project that `make demo` made in a bare clone; its environment is its own."""
    clone = tmp_path_factory.mktemp("demo") / "O'Neil's work"
    git("clone", "--quiet", template, clone, cwd=clone.parent)
    began = cpu_seconds()
    done = execute("make", "demo", cwd=clone)
    assert done.returncode == 0, done.stdout
    assert cpu_seconds() - began < 180
    assert "predictions.png" in done.stdout and "curves.png" in done.stdout
    return BakedProject(clone / "build" / "my-project")


def test_the_demo_trains_from_a_bare_clone_whatever_its_folder_is_called(demo):
    assert (demo.path / ".venv").is_dir()
    (run,) = demo.path.glob("runs/digits/*")
    known = json.loads(golden.GOLDEN.read_text())["scores"]
    assert not list(golden.changed_scores(known, golden.scores_of(run)))
    assert (run / "predictions.png").stat().st_size > 10_000
    networks = demo.source / "networks.py"  # its recorded source is trained
    text = networks.read_text()
    networks.write_text(text.replace("def small_cnn", "def changed_cnn"))
    again = execute("make", "reproduce", "UNTIL=40", cwd=demo.path)
    networks.write_text(text)
    assert again.returncode == 0, again.stdout
    assert re.search(r"\nidentical: \d+ losses, up to step 40, bit for bit", again.stdout)


def test_a_commit_is_checked_without_an_activated_environment(demo):
    project = demo
    (project.path / "bad.py").write_text("print(nothing)\n")
    git("add", "--all", cwd=project.path)
    checked = os.environ | {"MYPY_CACHE_DIR": str(ENVIRONMENT / "mypy-cache")}
    refused = project.run("git", "commit", "--message", "Mine", env=checked)
    assert refused.returncode != 0 and "F821" in refused.stdout + refused.stderr
    (project.path / "bad.py").unlink()
    git("add", "--all", cwd=project.path)
    accepted = project.run("git", "commit", "--message", "Mine", env=checked)
    assert accepted.returncode == 0, accepted.stderr


def test_adding_a_package_leaves_torch_alone(demo):
    project = demo
    before = (project.path / "torch-cu130.lock").read_text()
    done = project.run("make", "add", "PKG=timm")
    assert done.returncode == 0, done.stderr
    assert '"timm' in (project.path / "pyproject.toml").read_text()
    assert "timm" in dict(project.locked())
    assert (project.path / "torch-cu130.lock").read_text() == before
    command = "import timm, torch; print(torch.__version__)"
    version = project.run(project.path / ".venv" / "bin" / "python", "-c", command).stdout
    assert version.startswith(QUESTIONS["_torch_version"])
