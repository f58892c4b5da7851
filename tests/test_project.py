"""The baked project, as its owner uses it: make's targets, the git hook, the notebook, the demo."""

import json
import os
import re
import resource
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from conftest import BIN, ENVIRONMENT, QUESTIONS, BakedProject, commit_all, execute, git

VARIANTS = {
    "defaults": {},
    "BSD": {"license": "BSD-3-Clause"},
    "Apache": {"license": "Apache-2.0"},
    "proprietary": {"license": "Proprietary"},
    "cu126": {"cuda": "cu126"},
    "cpu": {"cuda": "cpu", "universal_image": "registry.example.com:5000/team/torch:1.2"},
    "long": {"project_name": "a" + "b" * 49, "description": "d" * 300},
    "short": {"project_name": "z"},
    "quotes": {
        "project_name": 'O\'Neil "X"',
        "author_name": "Ada \\ 🐦 王",
        "description": "{}'\"",
    },
}


def locked(project: BakedProject) -> set[tuple[str, str]]:
    text = "".join(lock.read_text() for lock in project.path.glob("*.lock"))
    return set(re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\\n]+)", text, re.MULTILINE))


def test_setup_installs_what_the_locks_name(make, default_project, in_environment):
    frozen = default_project.run("uv", "pip", "freeze", "--python", ENVIRONMENT, env=in_environment)
    installed = set(re.findall(r"^(\S+)==(\S+)$", frozen.stdout, re.MULTILINE))
    assert ("torch", QUESTIONS["_torch_version"]) in installed
    assert installed - locked(default_project) == set()
    check = default_project.run("uv", "pip", "check", "--python", ENVIRONMENT, env=in_environment)
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_project_passes_its_own_checks(make, bake, in_environment, variant):
    project = bake(VARIANTS[variant])
    commit_all(project.path, "As baked")
    done = project.run("pre-commit", "run", "--all-files", env=in_environment)
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"\.Passed", done.stdout)) == 11, done.stdout
    assert git("status", "--porcelain", cwd=project.path) == ""


def test_the_template_passes_its_own_checks(template):
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = execute(
        "pre-commit", "run", "--all-files", cwd=template, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Passed") >= 8, done.stdout


def test_make_alone_prints_every_target(make, default_project):
    text = (default_project.path / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    printed = re.findall(r"^  make ([a-z-]+) +\S", make().stdout, re.MULTILINE)
    assert printed == targets


def test_the_projects_own_tests_pass_in_half_a_minute_of_two_cores(make):
    def cpu_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = cpu_seconds()
    done = make("test")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout) and " failed" not in done.stdout
    used = cpu_seconds() - before
    print(f"{used:.0f} CPU seconds")
    assert used < 2 * 30


@pytest.mark.xdist_group("engine")
def test_the_engines_tests_pass(make):
    """Those of speed too; in one process, beside which another tests the template."""
    done = make("test-engine", "ARGS=-n 1 -m 'not resume'")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"= (\d+) passed", done.stdout)[1]) > 400
    skipped = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", done.stdout, re.MULTILINE)
    here = {"needs a CUDA device", "no GPU", "no Docker here"}
    assert set(skipped) <= here | {"needs a C compiler and Python's headers"}


def test_training_needs_no_tools(make, bake, in_environment, tmp_path):
    project = bake({})
    shutil.rmtree(project.source / "engine" / "tools")
    environment = in_environment | {"PYTHONPATH": str(project.path / "src")}
    command = "python -m my_project fit --config configs/digits.yaml --trainer.max_epochs 1"
    done = project.run(*command.split(), env=environment | {"RUN_FOLDER": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


@pytest.fixture(scope="session")
def demo(template, tmp_path_factory) -> BakedProject:
    """The project that `make demo` made in a bare clone; its environment is its own."""
    clone = tmp_path_factory.mktemp("demo") / "O'Neil's work"
    git("clone", "--quiet", template, clone, cwd=clone.parent)
    began = time.perf_counter()
    done = execute("make", "demo", cwd=clone)
    assert done.returncode == 0, done.stdout
    assert time.perf_counter() - began < 180
    return BakedProject(clone / "build" / "my-project")


@pytest.mark.xdist_group("demo")
def test_the_demo_trains_from_a_bare_clone_whatever_its_folder_is_called(demo):
    began = time.perf_counter()
    done = execute("make", "demo", cwd=demo.path.parents[1])
    assert done.returncode == 0, done.stdout
    assert time.perf_counter() - began < 90
    assert "predictions.png" in done.stdout and "curves.png" in done.stdout
    assert (demo.path / ".venv").is_dir()
    runs = sorted(demo.path.glob("runs/digits/*"))
    assert len(runs) == 2
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        assert record["results"]["test/accuracy"] >= 0.97
        assert record["seconds"]["total"] < 60
        assert (run / "predictions.png").stat().st_size > 10_000
    networks = demo.source / "networks.py"  # its recorded source is trained
    before = networks.read_text()
    networks.write_text(before.replace("def small_cnn", "def changed_cnn"))
    again = execute("make", "reproduce", cwd=demo.path)
    networks.write_text(before)
    assert again.returncode == 0, again.stdout
    assert "\nidentical: " in again.stdout and " tensors, to the bit" in again.stdout


@pytest.mark.xdist_group("demo")
def test_a_commit_is_checked_without_an_activated_environment(demo):
    project = demo
    (project.path / "bad.py").write_text("print(nothing)\n")
    git("add", "--all", cwd=project.path)
    refused = project.run("git", "commit", "--message", "Mine")
    assert refused.returncode != 0 and "F821" in refused.stdout + refused.stderr
    (project.path / "bad.py").unlink()
    git("add", "--all", cwd=project.path)
    accepted = project.run("git", "commit", "--message", "Mine")
    assert accepted.returncode == 0, accepted.stderr


@pytest.mark.xdist_group("demo")
def test_adding_a_package_leaves_torch_alone(demo):
    project = demo
    before = (project.path / "torch-cu130.lock").read_text()
    done = project.run("make", "add", "PKG=timm")
    assert done.returncode == 0, done.stderr
    assert '"timm' in (project.path / "pyproject.toml").read_text()
    assert "timm" in dict(locked(project))
    assert (project.path / "torch-cu130.lock").read_text() == before
    command = "import timm, torch; print(torch.__version__)"
    version = project.run(project.path / ".venv" / "bin" / "python", "-c", command).stdout
    assert version.startswith(QUESTIONS["_torch_version"])


def test_the_notebook_runs_from_top_to_bottom(make, default_project, in_environment, tmp_path):
    command = "jupyter nbconvert --to notebook --execute notebooks/first_day.ipynb --output"
    done = default_project.run(*command.split(), tmp_path / "done.ipynb", env=in_environment)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    drawn = [o for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(drawn) == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_listens(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def test_jupyterlab_starts_with_a_token(make, default_project, in_environment):
    planned = make("--dry-run", "notebook", f"ARGS=--allow-root --port {free_port()}").stdout
    command = shlex.split(planned.splitlines()[-1])
    options = {"cwd": default_project.path, "env": in_environment, "text": True}
    with subprocess.Popen(command, stderr=subprocess.PIPE, **options) as server:
        address = re.compile(r"http://127\.0\.0\.1:\d+/lab\S*\?token=[0-9a-f]{40,}")
        try:
            found = next(filter(None, map(address.search, server.stderr)))[0]
            contents = found.partition("/lab")[0] + "/api/contents"
            wait_until_it_listens(int(re.search(r":(\d+)/", found)[1]))
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(contents)
            token = found.partition("?")[2]
            assert urllib.request.urlopen(f"{contents}?{token}").status == 200
        finally:
            server.terminate()


@pytest.mark.xdist_group("engine")
def test_runs_that_are_killed_resume_to_the_same_bits(make):
    done = make("test-resume")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("resumed from") == 25
    assert re.search(r"= 31 passed", done.stdout)


def test_a_mistake_on_the_command_line_is_explained(make):
    done = make("train", "ARGS=--model.network resnet81")
    assert done.returncode == 2
    assert "Known: small_cnn, resnet18" in done.stderr and "Traceback" not in done.stderr


def test_without_a_lock_for_torch_setup_asks_pytorchs_own_index(bake):
    project = bake({"cuda": "cpu"})
    planned = project.run("make", "--dry-run", "setup").stdout
    assert "install --exact --torch-backend cpu" in planned
