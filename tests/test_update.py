"""`cruft update` brings what changed in the template and leaves the project's own work alone."""

import json
import shutil

import pytest
from conftest import BIN, QUESTIONS, BakedProject, commit_all, execute, git

ANSWERS = {"project_name": "Bird Classifier", "author_name": 'Ada "Countess" 🐦', "cuda": "cu126"}
INSIDE = "{{cookiecutter.project_slug}}"


def cruft(*arguments, cwd) -> str:
    done = execute(shutil.which("cruft", path=BIN), *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def updated(template, tmp_path_factory) -> tuple[BakedProject, dict, str]:
    """A project made, worked in and committed; then the template moves on and the project follows.

    Gives the project, the answers before the update and what the update printed.
    """
    work = tmp_path_factory.mktemp("update")
    source = work / "torch-gpu-template"
    shutil.copytree(template, source)
    cruft("create", source, "--no-input", "--extra-context", json.dumps(ANSWERS), cwd=work)
    project = BakedProject(work / "bird-classifier")
    before = json.loads((project.path / ".cruft.json").read_text())["context"]["cookiecutter"]
    with (project.source / "networks.py").open("a") as networks:
        networks.write("\n\nLAYERS_OF_MY_OWN = 3\n")
    if not (project.path / ".git").exists():
        git("init", "--quiet", cwd=project.path)
    commit_all(project.path, "My work")

    with (source / INSIDE / "README.md").open("a") as readme:
        readme.write("\nA new chapter.\n")
    questions = json.loads((source / "cookiecutter.json").read_text())
    questions["_torch_version"] = "99.0.0"
    (source / "cookiecutter.json").write_text(json.dumps(questions, indent=2))
    commit_all(source, "A newer torch")
    return project, before, cruft("update", "--skip-apply-ask", cwd=project.path)


def answers(project: BakedProject) -> dict:
    return json.loads((project.path / ".cruft.json").read_text())["context"]["cookiecutter"]


def test_cruft_create_gives_a_repository_and_remembers_the_answers(updated):
    _, before, _ = updated
    assert {name: before[name] for name in ANSWERS} == ANSWERS


def test_update_brings_the_change(updated):
    project, _, _ = updated
    assert (project.path / "README.md").read_text().endswith("A new chapter.\n")


def test_update_keeps_the_answers(updated):
    project, before, _ = updated
    asked = {name for name in before if not name.startswith("_")}
    assert {name: answers(project)[name] for name in asked} == {
        name: before[name] for name in asked
    }


def test_update_moves_torch_and_with_it_the_image(updated):
    project, before, _ = updated
    assert before["__image"].endswith(f":{QUESTIONS['_torch_version']}-cu126")
    assert answers(project)["__image"].endswith(":99.0.0-cu126")
    assert "torch==99.0.0" in (project.path / "pyproject.toml").read_text()


def test_update_leaves_my_own_work(updated):
    project, _, _ = updated
    assert "LAYERS_OF_MY_OWN" in (project.source / "networks.py").read_text()
    changed = git("status", "--porcelain", cwd=project.path)
    assert "networks.py" not in changed and ".rej" not in changed


def test_update_prints_no_first_steps(updated):
    assert "make setup" not in updated[2]


def test_update_to_the_same_template_changes_nothing(updated):
    project, _, _ = updated
    commit_all(project.path, "Updated")
    assert "up to date" in cruft("update", "--skip-apply-ask", cwd=project.path)
    assert git("status", "--porcelain", cwd=project.path) == ""
