"""The Makefile: names reach the program as they were typed, and the folder's own code runs."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine.paths import project_root

NAMES = ["my own", "it's", 'a "b" (c)', "1 & 2; 3", "ünï", "plain", "50$ off", "$(x", "a#b,c"]
Make = Callable[..., list[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Call make with an environment whose programs print their words, and return these."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    (tmp_path / "bin").mkdir()
    for name, first in (("python", ""), ("uv", ""), ("docker", 'echo "RUN=$RUN"; ')):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{first}for word; do printf '%s\\n' \"$word\"; done\n")
        program.chmod(0o755)
    (tmp_path / f".ready-{package.__name__}").touch()
    not_ours = "PIP_", "UV_", "MAKE", "ARGS"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(not_ours)}

    def command(*words: str, **environment: str) -> list[str]:
        around = kept | {"UV_PROJECT_ENVIRONMENT": str(tmp_path)} | environment
        return subprocess.run(
            ["make", "--no-print-directory", "--silent", *words],
            cwd=project_root(),
            env=around,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    return command


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("target", "variable", "before"),
    [
        ("train", "CONFIG", "--config"),
        ("tune", "CONFIG", "--config"),
        ("predict", "INPUT", "--input"),
        ("predict", "OUT", "--out"),
        ("evaluate", "RUN", "--run"),
        ("reproduce", "RUN", "--run"),
        ("bench-check", "BASELINE", "bench-check"),
    ],
)
def test_make_passes_names_on_whole(name, target, variable, before, make):
    typed = make(target, f"{variable}=configs/{name}.yaml")
    exported = make(target, **{variable: f"configs/{name}.yaml"})
    for words in (typed, exported):
        assert words[words.index(before) + 1] == f"configs/{name}.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_the_service_in_a_container_gets_the_name_whole(name, make):
    words = make("serve", "DOCKER=1", f"RUN=runs/{name}")
    assert words[-5:] == [f"RUN=runs/{name}", "compose", "up", "--build", "serve"]


def test_make_passes_the_runs_name_note_and_choice_on_whole(make):
    words = make("train", "NAME=it's 50$ off", "NOTE=a & b")
    assert words[-4:] == ["--name", "it's 50$ off", "--note", "a & b"]
    assert "--name" not in make("train", NAME="the-host")  # WSL sets this variable
    chosen = ["--sort", "score", "--recipe", "my own"]
    assert make("runs", "SORT=score", "RECIPE=my own")[-4:] == chosen
    assert make("compare", "RUNS=a$b c")[-2:] == ["a$b", "c"]
    assert make("prune")[-1] == "prune"
    assert make("prune", "KEEP=3", "YES=1")[-3:] == ["--keep", "3", "--yes"]


def test_a_name_of_plain_letters_is_shown_as_typed(make):
    assert "--config configs/plain.yaml" in " ".join(
        make("-n", "train", "CONFIG=configs/plain.yaml")
    )


def test_make_runs_the_code_of_its_own_folder(make):
    show = "--eval=show: ; @echo $$PYTHONPATH"
    source = str(project_root() / "src")
    assert make(show, "show", PYTHONPATH="/more") == [f"{source}:/more"]
    assert make(show, "show", PYTHONPATH="") == [source]


def test_all_that_setup_installs_is_asked_of_the_same_indexes(make, tmp_path):
    (tmp_path / f".ready-{package.__name__}").unlink()
    for present in (True, False):
        planned = make("-n", "setup")
        installs = [line for line in planned if "pip install" in line or "pip sync" in line]
        assert len(installs) == (2 if present else 3)
        assert all("engine/tools/indexes.py" in line for line in installs)
        (tmp_path / "bin" / "uv").unlink(missing_ok=True)


def test_a_table_that_a_container_writes_is_kept(make):
    words = make("predict", "DOCKER=1", "INPUT=data/photos")
    assert words[-4:] == ["--input", "data/photos", "--out", "runs/predictions.csv"]
    assert make("predict", "DOCKER=1")[-2:] == ["--run", "latest"]
    assert make("predict", "INPUT=data/photos")[-2:] == ["--input", "data/photos"]


def test_a_file_in_place_of_a_target_is_an_error(make):
    with pytest.raises(subprocess.CalledProcessError) as error:
        make("predict", "docs")
    assert '"docs" is no target: name the variable, such as INPUT=docs' in error.value.stderr


def test_a_variable_in_small_letters_is_an_error(make, monkeypatch):
    with pytest.raises(subprocess.CalledProcessError) as error:
        make("train", "config=configs/base.yaml")
    assert '"config=" is not read: write make\'s variables in capitals' in error.value.stderr
    monkeypatch.setenv("name", "of something else")
    assert make("train")
