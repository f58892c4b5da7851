"""`make update` brings what changed in the template and loses no work, as UPGRADING.md says too."""

import hashlib
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import BIN, QUESTIONS, TEMPLATE, BakedProject, commit_all, execute, git
from cookiecutter.main import cookiecutter as cookiecutter_api

ANSWERS = {"project_name": "Bird Classifier", "author_name": 'Ada "Countess" 🐦', "cuda": "cu126"}
INSIDE = "{{cookiecutter.project_slug}}"
PACKAGE = f"{INSIDE}/src/{{{{cookiecutter.__package_name}}}}"
BEFORE_THE_ENGINE = "9022920"
LINK = ".cruft.json"  # which commit and answers a project was made from
MARKS = "<<<<<<<"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


def made_from(source: Path, out: Path) -> BakedProject:
    made = cookiecutter_api(str(source), no_input=True, extra_context=ANSWERS, output_dir=str(out))
    return BakedProject(Path(made))


def link_of(project: BakedProject) -> dict:
    return json.loads((project.path / LINK).read_text())


def answers(project: BakedProject) -> dict:
    return link_of(project)["context"]["cookiecutter"]


def update(project: BakedProject):
    return execute(
        sys.executable, project.source / "engine" / "tools" / "update.py", cwd=project.path
    )


def differs(one: BakedProject, two: BakedProject) -> set[str]:
    first, second = one.files(), two.files()
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def copied(project: BakedProject, folder: Path) -> BakedProject:
    return BakedProject(shutil.copytree(project.path, folder / project.path.name))


def leftovers(project: BakedProject) -> list[str]:
    return [name for name in project.files() if name.endswith((".rej", ".orig"))]


def edit_three_files(project: BakedProject) -> None:
    edit(project.source / "networks.py", "nn.Dropout(0.1)", "nn.Dropout(0.5)")
    edit(
        project.source / "classifier.py",
        "label_smoothing: float = 0.0",
        "label_smoothing: float = 0.2",
    )
    edit(project.path / "configs" / "digits.yaml", "max_epochs: 30", "max_epochs: 7")


@pytest.fixture(scope="module")
def source(template, tmp_path_factory) -> Path:
    """A template of its own, which moves on."""
    return shutil.copytree(template, tmp_path_factory.mktemp("update") / "torch-gpu-template")


@pytest.fixture(scope="module")
def worked_in(source) -> BakedProject:
    """A project that was edited before its first commit, from a template that moves on then."""
    project = made_from(source, source.parent / "made")
    edit_three_files(project)
    commit_all(project.path, "My work")

    engine = source / PACKAGE / "engine"
    edit(source / PACKAGE / "networks.py", "The networks: the file", "Networks: the file")
    edit(source / INSIDE / "configs" / "digits.yaml", "batch_size: 64", "batch_size: 32")
    (source / INSIDE / "README.md").open("a").write("\nA new chapter.\n")
    (engine / "news.py").write_text("NEWS = True\n")
    (engine / "task.py").open("a").write("\nNEWS = True\n")
    (engine / "tools" / "seeds.py").unlink()
    (engine / "VERSION").write_text("9.0.0\n")
    questions = QUESTIONS | {"_torch_version": "99.0.0"}
    (source / "cookiecutter.json").write_text(json.dumps(questions, indent=2))
    commit_all(source, "A newer torch")
    return project


@pytest.fixture(scope="module")
def fresh(worked_in, source) -> BakedProject:
    """What the newer template makes for somebody new."""
    return made_from(source, source.parent / "fresh")


@pytest.fixture
def copy(worked_in, tmp_path) -> BakedProject:
    return copied(worked_in, tmp_path)


@pytest.fixture(scope="module")
def updated(worked_in, fresh) -> tuple[BakedProject, str]:
    """The project after the update, and what the update said."""
    project = copied(worked_in, worked_in.path.parent / "updated")
    done = update(project)
    assert done.returncode == 0, done.stdout
    return project, done.stdout


def test_update_keeps_edits_and_brings_all_else(updated, worked_in, fresh):
    project, _ = updated
    edited = {"src/bird_classifier/networks.py", "src/bird_classifier/classifier.py"}
    assert differs(project, fresh) - {LINK} == edited | {"configs/digits.yaml"}
    networks = (project.source / "networks.py").read_text()
    assert "nn.Dropout(0.5)" in networks and networks.startswith('"""Networks: the file')
    assert "label_smoothing: float = 0.2" in (project.source / "classifier.py").read_text()
    digits = (project.path / "configs" / "digits.yaml").read_text()
    assert "max_epochs: 7" in digits and "batch_size: 32" in digits


def test_update_replaces_the_engine_whole(updated):
    project, said = updated
    engine = project.source / "engine"
    assert (engine / "news.py").exists() and not (engine / "tools" / "seeds.py").exists()
    assert "Updated from 0.1.0 to 9.0.0" in said
    assert "engine" not in said and not (project.path / "engine-edits.patch").exists()


def test_update_stages_all_and_git_reset_undoes_it(updated, worked_in, tmp_path):
    project = copied(updated[0], tmp_path)
    assert not re.findall("^.[^ ]", git("status", "--porcelain", cwd=project.path), re.MULTILINE)
    git("reset", "--hard", cwd=project.path)
    assert differs(project, worked_in) == set()


def test_update_keeps_the_answers_and_moves_torch_and_the_image(updated, worked_in, source):
    (project, _), before = updated, answers(worked_in)
    asked = {name for name in before if not name.startswith("_")}
    assert {name: before[name] for name in asked} == {n: answers(project)[n] for n in asked}
    assert {name: before[name] for name in ANSWERS} == ANSWERS
    assert answers(project)["__image"].endswith(":99.0.0-cu126")
    assert "torch==99.0.0" in (project.path / "pyproject.toml").read_text()
    assert link_of(project)["commit"] == git("rev-parse", "HEAD", cwd=source).strip()


def test_a_second_update_changes_nothing(updated, tmp_path):
    project = copied(updated[0], tmp_path)
    commit_all(project.path, "Updated")
    done = update(project)
    assert done.returncode == 0 and "Nothing to do" in done.stdout, done.stdout
    assert git("status", "--porcelain", cwd=project.path) == ""


def test_edits_of_the_engine_are_named_and_kept_as_a_patch(copy, fresh):
    engine, path = copy.source / "engine", "src/bird_classifier/engine"
    edit(engine / "paths.py", '"""Where things are', '"""My own: where things are')
    (engine / "mine.py").write_text("MINE = True\n")
    (copy.path / "tests" / "engine" / "killed.py").unlink()
    commit_all(copy.path, "An emergency")
    done = update(copy)
    edited = {f"{path}/paths.py", f"{path}/mine.py", "tests/engine/killed.py"}
    assert done.returncode == 0 and set(re.findall(r"^  (\S+)$", done.stdout, re.M)) == edited
    assert not {n for n in differs(copy, fresh) if "engine/" in n} and not leftovers(copy)

    git("apply", "-3", "engine-edits.patch", cwd=copy.path)
    assert {name for name in differs(copy, fresh) if "engine/" in name} == edited
    assert (engine / "paths.py").read_text().startswith('"""My own')


def test_conflicts_are_marked_in_a_project_that_is_a_folder_of_a_repository(copy, tmp_path):
    shutil.rmtree(copy.path / ".git")
    edit(copy.source / "networks.py", "The networks: the file", "My networks: the file")
    git("init", "--quiet", cwd=tmp_path)
    commit_all(tmp_path, "A folder among others")
    done = update(copy)
    assert done.returncode == 3, done.stdout
    assert re.findall(r"^  (\S+)$", done.stdout, re.M) == ["src/bird_classifier/networks.py"]
    networks = (copy.source / "networks.py").read_text()
    assert MARKS in networks and "My networks" in networks and not leftovers(copy)
    assert (copy.source / "engine" / "news.py").exists()


def test_work_that_is_not_committed_is_refused(copy):
    (copy.path / "notes.txt").write_text("mine")
    (copy.source / "networks.py").open("a").write("\nMINE = 3\n")
    before = copy.files()
    done = update(copy)
    assert done.returncode == 2 and "Traceback" not in done.stdout
    assert "networks.py" in done.stdout and "?? notes.txt" in done.stdout
    assert copy.files() == before


def test_a_project_without_link_is_told_how_to_get_one(copy):
    (copy.path / LINK).unlink()
    commit_all(copy.path, "Unlinked")
    done = update(copy)
    assert done.returncode == 2 and "cruft link" in done.stdout and "UPGRADING.md" in done.stdout


def test_a_template_that_is_not_there_is_one_message(copy):
    edit(copy.path / LINK, link_of(copy)["commit"], "0" * 40)
    commit_all(copy.path, "A commit that never was")
    done = update(copy)
    assert done.returncode == 2 and "Traceback" not in done.stdout
    assert done.stdout.startswith("error: Generating") and "0" * 40 in done.stdout


def test_make_update_calls_it(default_project):
    planned = default_project.run("make", "--dry-run", "update", "ARGS=--checkout v1").stdout
    assert planned.splitlines()[-1] == "python src/my_project/engine/tools/update.py --checkout v1"


def test_a_clone_is_linked_to_where_it_came_from(cookiecutter, template, tmp_path):
    done = cookiecutter("--no-input", template="git+" + template.as_uri())
    assert done.returncode == 0, done.stdout
    link = link_of(BakedProject(tmp_path / "my-project"))
    assert link["template"] == template.as_uri()
    assert link["commit"] == git("rev-parse", "HEAD", cwd=template).strip()


def test_what_no_commit_holds_is_not_linked(template, cookiecutter, tmp_path):
    copy = shutil.copytree(template, tmp_path / "torch-gpu-template")
    (copy / INSIDE / "mine.txt").write_text("mine")
    assert cookiecutter("--no-input", template=copy).returncode == 0
    assert not (tmp_path / "my-project" / LINK).exists()


def test_the_manifest_holds_the_digest_of_each_file_of_the_engine(default_project):
    files, own = default_project.files(), "src/my_project/engine/MANIFEST"
    folders = ("src/my_project/engine/", "tests/engine/")
    expected = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name.startswith(folders) and name != own
    }
    lines = [line.split("  ") for line in files[own].decode().splitlines()]
    assert {name: digest for digest, name in lines} == expected


def test_the_template_has_one_version():
    changes, upgrading = ((TEMPLATE / f"{n}.md").read_text() for n in ("CHANGELOG", "UPGRADING"))
    version = QUESTIONS["_version"]
    assert re.search(r"^## (\d.*)$", changes, re.MULTILINE)[1] == version
    assert re.search(rf"^## {re.escape(version)}$", upgrading, re.MULTILINE)
    assert (TEMPLATE / PACKAGE / "engine" / "VERSION").read_text() == f"{version}\n"
    assert tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["version"] == version


@pytest.fixture
def history(template, tmp_path) -> Path:
    """A clone with the template's past, and what is here now as its newest commit."""
    found = execute("git", "cat-file", "-e", f"{BEFORE_THE_ENGINE}^{{commit}}", cwd=TEMPLATE)
    if found.returncode:
        pytest.skip(f"{BEFORE_THE_ENGINE} is not in this clone: git fetch --unshallow")
    clone = tmp_path / "origin"
    git("clone", "--quiet", TEMPLATE, clone, cwd=tmp_path)
    git("rm", "-r", "--quiet", ".", cwd=clone)
    shutil.copytree(template, clone, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    git("add", "--all", cwd=clone)
    git("commit", "--quiet", "--allow-empty", "--message", "What is here now", cwd=clone)
    return clone


def test_a_project_from_before_the_engine_is_updated_as_upgrading_says(history, tmp_path):
    newest = git("rev-parse", "HEAD", cwd=history).strip()
    git("checkout", "--quiet", BEFORE_THE_ENGINE, cwd=history)
    project = BakedProject(Path(cookiecutter_api(str(history), no_input=True, output_dir=tmp_path)))
    git("checkout", "--quiet", newest, cwd=history)
    commit_all(project.path, "As made")
    edit_three_files(project)
    (project.source / "run" / "verified.py").open("a").write("\nMINE = 3\n")
    commit_all(project.path, "My work")
    (project.path / ".venv" / "bin").mkdir(parents=True)
    (project.path / ".venv" / "bin" / "uv").symlink_to(BIN / "uv")

    section = (TEMPLATE / "UPGRADING.md").read_text().partition("## 0.1.0")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    get, link, update = (b.replace(QUESTIONS["_repository"], str(history)) for b in blocks[:3])
    for block in (get, link):
        done = project.run("bash", "-ec", block, input="\n" * 9)
        assert done.returncode == 0, done.stderr
    assert git("status", "--porcelain", cwd=project.path) == ""
    done = project.run("bash", "-ec", update)
    assert done.returncode == 3, done.stderr
    conflicts = {"src/my_project/classifier.py", "src/my_project/run/verified.py"}
    assert set(re.findall(r"^  (\S+)$", done.stdout, re.M)) == conflicts and not leftovers(project)
    assert "label_smoothing: float = 0.2" in (project.source / "classifier.py").read_text()

    git("checkout", "--theirs", "src/my_project/classifier.py", cwd=project.path)
    git("rm", "--quiet", "src/my_project/run/verified.py", cwd=project.path)
    commit_all(project.path, "Updated")
    shutil.rmtree(project.path / ".venv")
    (tmp_path / "fresh").mkdir()
    given = json.loads((project.path / LINK).read_text())["context"]["cookiecutter"]
    answers = {"description": given["description"]}  # the default was another
    out = str(tmp_path / "fresh")
    made = cookiecutter_api(str(history), no_input=True, extra_context=answers, output_dir=out)
    left = {"src/my_project/networks.py", "configs/digits.yaml", LINK}
    assert differs(project, BakedProject(Path(made))) == left
    assert "nn.Dropout(0.5)" in (project.source / "networks.py").read_text()
    assert "max_epochs: 7" in (project.path / "configs" / "digits.yaml").read_text()
