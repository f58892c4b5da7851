"""The baked container files hold for every answer: schema, names, the image they build on."""

import json
import os
import re

import pytest
from conftest import BIN, ENVIRONMENT, BakedProject, execute

DIGEST = "team/torch@sha256:" + "0123456789abcdef" * 4
IMAGES = {  # answers: the image, the one without CUDA, the one to serve from
    "defaults": (
        {},
        "ghcr.io/org/torch-universal:2.11.0-cu130",
        "ghcr.io/org/torch-universal:2.11.0-cpu",
        "ghcr.io/org/torch-universal:2.11.0-cu130-serve",
    ),
    "cpu": (
        {"cuda": "cpu", "project_slug": "my.net"},
        "ghcr.io/org/torch-universal:2.11.0-cpu",
        "ghcr.io/org/torch-universal:2.11.0-cpu",
        "ghcr.io/org/torch-universal:2.11.0-cpu-serve",
    ),
    "own tag": (
        {"cuda": "cu126", "universal_image": "host:5000/torch:1.2"},
        "host:5000/torch:1.2",
        "host:5000/torch:1.2",
        "host:5000/torch:1.2-serve",
    ),
    "digest": ({"universal_image": DIGEST}, DIGEST, DIGEST, DIGEST),
}


@pytest.fixture(scope="module", params=IMAGES, ids=str)
def variant(request, bake) -> tuple[BakedProject, tuple[str, str, str]]:
    answers, *images = IMAGES[request.param]
    return bake(answers), tuple(images)


def devcontainer(project: BakedProject, folder: str = "") -> dict:
    return json.loads((project.path / ".devcontainer" / folder / "devcontainer.json").read_text())


def test_compose_files_follow_the_schema(variant):
    project, _ = variant
    schema = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = project.run(*schema, *sorted(project.path.glob("compose*.yaml")))
    assert done.returncode == 0, done.stdout


def test_every_file_names_the_image_that_was_chosen(variant):
    project, (image, without_cuda, serve) = variant
    text = (project.path / "Dockerfile").read_text()
    named = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    assert named == {"UNIVERSAL_IMAGE": image, "SERVE_IMAGE": serve}
    assert devcontainer(project)["build"]["args"]["UNIVERSAL_IMAGE"] == image
    assert devcontainer(project, "cpu")["build"]["args"]["UNIVERSAL_IMAGE"] == without_cuda


def test_only_a_project_for_gpus_asks_for_them(variant):
    project, (image, *_) = variant
    for_gpus = not image.endswith("-cpu")
    assert ("--gpus=all" in devcontainer(project)["runArgs"]) == for_gpus
    assert (project.path / "compose.gpu.yaml").exists() == for_gpus


def test_the_name_of_the_composition_is_one(variant):
    """Compose refuses dots."""
    project, _ = variant
    name = re.search(
        r"^name: ([\w-]+)-\$\{USER_ID:-1000\}",
        (project.path / "compose.yaml").read_text(),
        re.MULTILINE,
    )
    assert name and name[1] == project.package


@pytest.mark.parametrize("target", ["train", "evaluate", "test"])
def test_docker_is_asked_only_with_docker_1(default_project, target):
    environment = {k: v for k, v in os.environ.items() if k not in ("DOCKER", "COMPOSE_FILE")}
    here = default_project.run("make", "--dry-run", target, env=environment).stdout
    there = default_project.run("make", "--dry-run", target, "DOCKER=1", env=environment).stdout
    assert "docker" not in here and ".venv" in here
    assert ".venv" not in there
    assert there.splitlines()[-1].startswith(
        "USER_ID=$(id -u) GROUP_ID=$(id -g) docker compose run --rm train python -m "
    )


def test_the_service_is_made_of_the_image_without_tools(default_project):
    environment = {k: v for k, v in os.environ.items() if k not in ("DOCKER", "COMPOSE_FILE")}
    here = default_project.run("make", "--dry-run", "serve", "RUN=one", env=environment).stdout
    there = default_project.run("make", "--dry-run", "serve", "DOCKER=1", env=environment).stdout
    assert here.splitlines()[-1].startswith("python -m my_project serve --run one")
    assert f"docker pull {IMAGES['defaults'][3]} ||" in there and "--target serve" in there
    assert there.splitlines()[-1].endswith("docker compose up --build serve")


def test_wheels_replace_the_index_at_every_step(default_project):
    planned = default_project.run("make", "--dry-run", "setup", "WHEELS=a $tick").stdout
    installs = [line for line in planned.splitlines() if "install" in line or " sync " in line]
    assert len(installs) == 3
    assert all("--no-index --find-links 'a $tick'" in line for line in installs)


def test_a_bundle_without_a_lock_of_torch_is_refused(make, bake):
    project = bake({"cuda": "cpu"})
    source = {"PYTHONPATH": str(project.path / "src")}
    command = [ENVIRONMENT / "bin" / "python", "-m", project.package, "bundle"]
    done = execute(*command, cwd=project.path, env=os.environ | source)
    assert done.returncode == 2 and done.stdout.startswith("error: There is no torch-")
