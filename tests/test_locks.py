"""Every lock resolves, carries hashes and names no host; project and image pin the same."""

import json
import os
import re
import sys

import pytest
from conftest import BIN, TEMPLATE, execute

PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
TEXT = PROJECT / "tasks" / "text"
IMAGE = TEMPLATE / "image"
LOCKS = [
    TEMPLATE / "requirements.lock",
    IMAGE / "nvcc-cu130.lock",
    *(
        folder / name
        for folder in (PROJECT, TEXT, IMAGE)
        for name in ("requirements.lock", "torch-cu130.lock")
    ),
]
LOCK_TOOL = PROJECT / "src" / "{{cookiecutter.__package_name}}" / "engine" / "tools" / "lock.py"


def packages(lock) -> list[str]:
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    return [entry for entry in entries if not entry.startswith("#")]


def pins(*locks) -> dict[str, set[str]]:
    """The versions of each package: several where they depend on Python's version or the system."""
    found: dict[str, set[str]] = {}
    for entry in (entry for lock in locks for entry in packages(lock)):
        name, version = entry.split()[0].split("==")
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock.parent.name}/{lock.name}")
def test_every_package_is_pinned_and_hashed_and_no_host_is_named(lock):
    assert len(packages(lock)) > 5
    for entry in packages(lock):
        assert re.match(r"[a-z0-9.-]+==\S+( ;.*)? \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in lock.read_text()


@pytest.mark.parametrize("folder", [PROJECT, TEXT, IMAGE], ids=["project", "text", "image"])
def test_torchs_stack_stands_apart(folder):
    torch, rest = pins(folder / "torch-cu130.lock"), pins(folder / "requirements.lock")
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13"} <= set(torch)
    assert not set(torch) & set(rest)
    assert not [name for name in rest if name.startswith(("torch", "triton", "nvidia-c"))] or (
        {name for name in rest if name.startswith("torch")} == {"torchmetrics"}
    )


def test_nvcc_is_of_torchs_cuda():
    nvcc, torch = (pins(IMAGE / f"{name}-cu130.lock") for name in ("nvcc", "torch"))
    assert {"nvidia-cuda-nvcc", "nvidia-nvvm"} <= set(nvcc)
    for name in ("cuda-toolkit", "nvidia-cuda-runtime"):
        assert nvcc[name] == torch[name]


def test_project_and_image_agree():
    names = ("requirements.lock", "torch-cu130.lock")
    project, image = (pins(*(folder / name for name in names)) for folder in (PROJECT, IMAGE))
    shared = set(project) & set(image)
    assert {"torch", "torchvision", "lightning", "numpy", "jupyterlab"} <= shared
    assert {name for name in shared if project[name] != image[name]} == set()


def test_both_tasks_have_the_same_versions_and_text_has_more_packages():
    names = ("requirements.lock", "torch-cu130.lock")
    images, text = (pins(*(folder / name for name in names)) for folder in (PROJECT, TEXT))
    assert {"transformers", "tokenizers", "peft", "pyarrow"} <= set(text) - set(images)
    assert {name: text.get(name) for name in images} == images


def test_versions_are_those_of_cookiecutter_json():
    answers = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    locked = pins(*(PROJECT / name for name in ("requirements.lock", "torch-cu130.lock")))
    for name in ("torch", "torchvision", "lightning"):
        version = answers[f"_{name}_version"]
        assert locked[name] == {version}
        assert f'"{name}=={version}"' in (IMAGE / "pyproject.toml").read_text()


def test_the_committed_locks_resolve(default_project, bake, tmp_path):
    """Locking again from what is committed changes nothing."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    text = bake({"task": "text"}).path
    for source, locks in ((default_project.path, PROJECT), (text, TEXT), (IMAGE, IMAGE)):
        folder = tmp_path / locks.name
        folder.mkdir()
        names = ("pyproject.toml", "requirements.lock", "torch-cu130.lock")
        for name in names:
            (folder / name).write_bytes((source / name).read_bytes())
        constraints = [f"--constraint={PROJECT / name}" for name in names[1:] if locks != PROJECT]
        done = execute(
            sys.executable, LOCK_TOOL, *constraints, cwd=folder, env=os.environ | {"PATH": path}
        )
        assert done.returncode == 0, done.stdout
        for name in names[1:]:
            assert (folder / name).read_text() == (locks / name).read_text(), folder / name
