"""What the image and the projects that start from it must agree on; image/tests asks the image."""

import os

import yaml
from conftest import BIN, QUESTIONS, TEMPLATE, execute

OWN_TOOLS = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def test_make_image_makes_what_projects_start_from(bake):
    for cuda in QUESTIONS["cuda"]:
        made = execute("make", "--dry-run", "image", f"CUDA={cuda}", cwd=TEMPLATE).stdout
        [start] = [
            line.partition("=")[2]
            for line in (bake({"cuda": cuda}).path / "Dockerfile").read_text().splitlines()
            if line.startswith("ARG UNIVERSAL_IMAGE=")
        ]
        assert f" --tag {start} image\n" in made, made
        assert f" --build-arg CUDA={cuda} " in made


def test_the_workflow_makes_every_cuda_that_a_project_may_choose():
    workflow = yaml.safe_load((TEMPLATE / ".github" / "workflows" / "image.yml").read_text())
    matrix = workflow["jobs"]["image"]["strategy"]["matrix"]["include"]
    assert {row["cuda"] for row in matrix} == set(QUESTIONS["cuda"])


def test_without_a_container_engine_make_says_so():
    environment = OWN_TOOLS | {"DOCKER_HOST": "unix:///nowhere"}
    for target in ("image", "test-image", "push"):
        done = execute("make", target, cwd=TEMPLATE, env=environment)
        assert done.returncode and "There is no container engine" in done.stdout, done.stdout
