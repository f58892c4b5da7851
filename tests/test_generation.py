"""Every option and every way to call cookiecutter gives a whole project."""

import os
import re
import shutil

import pytest
from conftest import QUESTIONS, TEMPLATE, BakedProject, commit_all, cpu_seconds, git

OPTIONS = [(name, choice) for name in ("task", "license", "cuda") for choice in QUESTIONS[name]]
LICENCES = {
    "MIT": "Permission is hereby granted, free of charge",
    "BSD-3-Clause": "Neither the name of the copyright holder",
    "Apache-2.0": "END OF TERMS AND CONDITIONS",
    "Proprietary": "All rights reserved",
}
OTHER = {
    "project_name": "Bird Classifier",
    "description": "Tells birds apart",
    "author_name": "Ada Lovelace",
    "license": "Apache-2.0",
    "cuda": "cpu",
    "universal_image": "registry.example.com:5000/team/torch:1.2",
}
JINJA = re.compile(rb"cookiecutter\s*\.|cookiecutter\[|(?<!\$)\{\{|\{%|\{#")
WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@pytest.mark.parametrize(("name", "choice"), OPTIONS)
def test_every_option_bakes(bake, name, choice):
    files = bake({name: choice}).files()
    assert {
        "LICENSE",
        "README.md",
        "Makefile",
        "pyproject.toml",
        "src/my_project/networks.py",
    } <= set(files)
    leftover = {file for file, content in files.items() if JINJA.search(content)}
    assert not leftover


@pytest.mark.parametrize("licence", LICENCES)
def test_chosen_licence_lands_with_the_author(bake, licence):
    text = (bake({"license": licence, "author_name": "Ada L."}).path / "LICENSE").read_text()
    assert LICENCES[licence] in text and re.search(r"^ *Copyright .*Ada L\.", text, re.MULTILINE)
    assert sum(other in text for other in LICENCES.values()) == 1
    assert text.endswith("\n") and not text.endswith("\n\n")


@pytest.mark.parametrize(("cuda", "locked"), [("cu130", True), ("cu126", False), ("cpu", False)])
def test_torch_lock_is_there_only_for_the_cuda_it_locks(bake, cuda, locked):
    assert (bake({"cuda": cuda}).path / "torch-cu130.lock").exists() == locked


@pytest.mark.parametrize("folder", ["src", "configs"])
def test_python_and_recipes_are_the_same_for_any_answers(bake, default_project, template, folder):
    def below(project: BakedProject, name: str) -> dict[str, bytes]:
        files = {k: v for k, v in project.files().items() if not k.endswith("MANIFEST")}
        found = {k: v for k, v in files.items() if k.startswith(f"{folder}/")}
        return {k.replace(name, "package"): v for k, v in found.items()}

    raw = BakedProject(template / "{{cookiecutter.project_slug}}")
    one = below(default_project, "my_project")
    assert one and one == below(bake(OTHER), "bird_classifier")
    assert one == below(raw, "{{cookiecutter.__package_name}}")


def test_git_ignores_no_source_of_the_template():
    folder = TEMPLATE / "{{cookiecutter.project_slug}}"
    hidden = git("ls-files", "-oi", "--exclude-standard", "src", "configs", "tests", cwd=folder)
    assert not re.findall(r"^.*\.(?:py|yaml)$", hidden, re.MULTILINE)


def test_everything_baked_is_committed(default_project):
    tracked = set(git("ls-files", "-z", cwd=default_project.path).strip("\0").split("\0"))
    assert tracked == set(default_project.files())


def test_replay_makes_the_same_project_again(cookiecutter, tmp_path):
    first = cookiecutter("--no-input", "-o", "a", *(f"{k}={v}" for k, v in OTHER.items()))
    again = cookiecutter("--replay", "-o", "b")
    assert first.returncode == again.returncode == 0, again.stdout
    one, two = (BakedProject(tmp_path / out / "bird-classifier").files() for out in "ab")
    assert one and one == two


def test_questions_can_all_be_answered_with_return(cookiecutter, tmp_path):
    done = cookiecutter(input="\n" * 8)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "my-project" / "pyproject.toml").exists()


def test_checkout_of_a_tag_makes_the_project_of_that_tag(cookiecutter, template, tmp_path):
    newer = tmp_path / "newer" / "torch-gpu-template"
    shutil.copytree(template, newer)
    (newer / "{{cookiecutter.project_slug}}" / "README.md").write_text("# Newer\n")
    commit_all(newer, "Newer than v1")
    done = cookiecutter("--no-input", "--checkout", "v1", template="git+" + newer.as_uri())
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "my-project" / "README.md").read_text() != "# Newer\n"


def test_project_made_without_hooks_lacks_only_what_updates_start_from(
    cookiecutter, default_project, tmp_path
):
    assert cookiecutter("--no-input", "--accept-hooks", "no").returncode == 0
    made, whole = BakedProject(tmp_path / "my-project").files(), default_project.files()
    made = {name: text for name, text in made.items() if not name.startswith("tasks/")}
    assert whole.keys() - made.keys() == {".cruft.json", "src/my_project/engine/MANIFEST"}
    assert made == {name: whole[name] for name in made}


def test_second_bake_over_a_project_keeps_what_is_not_the_templates(bake, tmp_path, cookiecutter):
    project = bake({}, tmp_path)
    (project.path / "mine.txt").write_text("mine")
    commit_all(project.path, "Mine")
    done = cookiecutter("--no-input", "--overwrite-if-exists")
    assert done.returncode == 0 and "existing git repository" in done.stdout
    assert (project.path / "mine.txt").read_text() == "mine"
    assert git("status", "--porcelain", cwd=project.path) == ""


def test_folder_with_spaces_is_fine(bake, tmp_path):
    assert bake({}, tmp_path / "my own projects").source.is_dir()


def test_git_repository_begins_on_main(bake):
    head = git("symbolic-ref", "HEAD", cwd=bake().path)
    assert head == "refs/heads/main\n"


@pytest.mark.parametrize(("ignored", "own"), [("", False), ("demo/\n", True)])
def test_repository_in_a_repository_only_where_that_one_ignores_it(bake, tmp_path, ignored, own):
    git("init", "--quiet", cwd=tmp_path)
    (tmp_path / ".gitignore").write_text(ignored)
    assert (bake({}, tmp_path / "demo").path / ".git").exists() == own


def test_without_git_the_project_is_made_and_says_so(cookiecutter, tmp_path):
    done = cookiecutter("--no-input", env=os.environ | {"PATH": str(tmp_path / "nothing")})
    assert done.returncode == 0 and "install git" in done.stdout
    assert (tmp_path / "my-project" / "pyproject.toml").exists()


def test_next_commands_can_be_typed_as_printed(cookiecutter, tmp_path):
    lines = cookiecutter("--no-input", "-o", "my work").stdout.splitlines()
    commands = [line.partition("#")[0].strip() for line in lines if line.startswith("  ")]
    assert commands == ["cd 'my work/my-project'", "make setup", "make train"]
    targets = (tmp_path / "my work" / "my-project" / "Makefile").read_text()
    assert re.search("^setup:", targets, re.MULTILINE) and re.search(
        "^train:", targets, re.MULTILINE
    )


def test_generation_takes_less_than_three_seconds(cookiecutter):
    before = cpu_seconds()
    assert cookiecutter("--no-input").returncode == 0
    assert cpu_seconds() - before < 3


def test_windows_can_check_out_every_path(template, default_project):
    paths = [*git("ls-files", "-z", cwd=template).strip("\0").split("\0"), *default_project.files()]
    for part in {part for path in paths for part in path.split("/")}:
        assert not re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', part), part
        assert not WINDOWS_DEVICE.fullmatch(part), part
    assert max(map(len, paths)) < 150
    assert len({path.lower() for path in paths}) == len(set(paths))


def with_windows_line_ends(files: dict[str, bytes]) -> list[str]:
    return [name for name, text in files.items() if b"\r\n" in text and b"\0" not in text]


def test_no_file_has_windows_line_ends(template, default_project):
    assert with_windows_line_ends(default_project.files()) == []
    assert with_windows_line_ends(BakedProject(template).files()) == []


@pytest.mark.parametrize("repository", ["template", "default_project"])
def test_checkout_on_windows_keeps_unix_line_ends(request, repository, tmp_path):
    source = getattr(found := request.getfixturevalue(repository), "path", found)
    git("clone", "--quiet", "-c", "core.autocrlf=true", source, tmp_path / "clone", cwd=tmp_path)
    files = BakedProject(tmp_path / "clone").files()
    assert files and with_windows_line_ends(files) == []


def test_no_file_of_the_template_has_the_default_answer_for_the_package():
    files = [
        file for file in (TEMPLATE / "{{cookiecutter.project_slug}}").rglob("*") if file.is_file()
    ]
    named = [file for file in files if b"my_project" in file.read_bytes()]
    assert len(files) > 150 and named == []
