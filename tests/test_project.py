"""The baked project, as its owner uses it: make's targets, the git hook, the notebook, the demo."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from conftest import (
    BIN,
    ENVIRONMENT,
    QUESTIONS,
    BakedProject,
    commit_all,
    cpu_seconds,
    execute,
    git,
)

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


def test_setup_installs_what_the_locks_name(make, default_project, in_environment):
    frozen = default_project.run("uv", "pip", "freeze", "--python", ENVIRONMENT, env=in_environment)
    installed = set(re.findall(r"^(\S+)==(\S+)$", frozen.stdout, re.MULTILINE))
    assert ("torch", QUESTIONS["_torch_version"]) in installed
    assert installed - default_project.locked() == set()
    check = default_project.run("uv", "pip", "check", "--python", ENVIRONMENT, env=in_environment)
    assert check.returncode == 0, check.stderr


def sources(project: BakedProject) -> dict[str, bytes]:
    names = ("src/", "tests/", "notebooks/", "pyproject.toml")
    found = {name: text for name, text in project.files().items() if name.startswith(names)}
    return found | {"pyproject.toml": re.sub(rb"(?m)^license.*", b"", found["pyproject.toml"])}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_project_passes_its_own_checks(
    make, bake, default_project, in_environment, variant
):
    project = bake(VARIANTS[variant])
    commit_all(project.path, "As baked")
    which, hooks, skipped = ["--all-files"], 11, ""
    if project.package != default_project.package:  # types don't depend on the package's name
        hooks, skipped = 10, "mypy"
    if sources(project) == sources(default_project) and variant != "defaults":
        known = default_project.files()  # which these hooks have seen
        new = [name for name, text in project.files().items() if text != known.get(name)]
        which, hooks = ["--files", *new], 4
    done = project.run("pre-commit", "run", *which, env=in_environment | {"SKIP": skipped})
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"\.Passed", done.stdout)) >= hooks, done.stdout
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
    listed = make().stdout
    assert re.findall(r"^  make ([a-z-]+) +\S", listed, re.MULTILINE) == targets
    assert max(map(len, listed.splitlines())) <= 80


def test_the_projects_own_tests_pass_in_half_a_minute_of_two_cores(make):
    before = cpu_seconds()
    done = make("test", "ARGS=-n 2 -p no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout) and " failed" not in done.stdout
    used = cpu_seconds() - before
    print(f"{used:.0f} CPU seconds")
    assert used < 2 * 30


def test_training_needs_no_tools(python, bake, tmp_path):
    project = bake({})
    shutil.rmtree(project.source / "engine" / "tools")
    command = "-m my_project fit --config configs/digits.yaml --trainer.max_epochs 1"
    source = str(project.path / "src")
    status, said = python(
        *command.split(), cwd=project.path, PYTHONPATH=source, RUN_FOLDER=str(tmp_path)
    )
    assert status == 0, said
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


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
    for _ in range(600):
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


def test_a_mistake_on_the_command_line_is_explained(make):
    done = make("train", "ARGS=--model.network resnet81")
    assert done.returncode == 2
    assert "Known: small_cnn, resnet18" in done.stderr and "Traceback" not in done.stderr


def test_without_a_lock_for_torch_setup_asks_pytorchs_own_index(bake):
    project = bake({"cuda": "cpu"})
    planned = project.run("make", "--dry-run", "setup").stdout
    assert "install --exact --torch-backend cpu" in planned
