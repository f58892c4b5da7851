"""The workflows of the template and of every project: valid, and calling only what exists."""

import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import BIN, QUESTIONS, execute, git

OWN_TOOLS = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
LONG_AGO = {"torch": "2.9.0", "torchvision": "0.24.0", "lightning": "2.6.0"}
PIN = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def workflows(folder: Path) -> dict[Path, dict]:
    return {path: yaml.safe_load(path.read_text()) for path in folder.glob(".github/workflows/*")}


def jobs(folder: Path) -> list[dict]:
    return [job for workflow in workflows(folder).values() for job in workflow["jobs"].values()]


def complaints_of_tools(folder: Path) -> list[str]:
    """The schema's and actionlint's, which knows an action's inputs by its major version."""
    paths = sorted(workflows(folder))
    schema = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *paths]
    found = [execute(*schema, cwd=folder)]
    for path in paths:
        text = re.sub(r"@[0-9a-f]{40} # (v\d+)\S*", r"@\1", path.read_text())
        command = [BIN / "actionlint", "-no-color", "-stdin-filename", path.name, "-"]
        found.append(execute(*command, cwd=folder, env=OWN_TOOLS, input=text))
    return [done.stdout for done in found if done.returncode]


def complaints_of_scripts(folder: Path) -> list[str]:
    """What a script calls for and the folder lacks, or what bash cannot read."""
    makefile = (folder / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    found = []
    for script in (step["run"] for job in jobs(folder) for step in job["steps"] if "run" in step):
        parsed = execute("bash", "-n", "-c", script, cwd=folder)
        found += [parsed.stdout] if parsed.returncode else []
        for arguments in re.findall(r"\bmake\b([^|;&\n]*)", script):
            words = [word for word in shlex.split(arguments) if re.fullmatch("[a-z][a-z-]*", word)]
            found += [f"make knows no {word}" for word in set(words) - set(targets)]
        for name in re.findall(r"[\w./-]+\.(?:py|toml|json|lock|ya?ml)\b", script):
            found += [] if (folder / name).is_file() else [f"there is no {name}"]
    return found


def complaints(folder: Path) -> list[str]:
    return complaints_of_tools(folder) + complaints_of_scripts(folder)


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def pins(project: Path) -> dict[str, str]:
    locks = "".join(lock.read_text() for lock in project.glob("*.lock"))
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", locks, re.MULTILINE))


@pytest.fixture(scope="module", params=["template", *QUESTIONS["cuda"]])
def folder(request, template, bake) -> Path:
    return template if request.param == "template" else bake({"cuda": request.param}).path


def test_every_workflow_is_valid_and_calls_only_what_exists(folder):
    assert {"ci.yml", "canary.yml"} <= {path.name for path in workflows(folder)}
    assert complaints(folder) == []


MISTAKES = {
    "key": ("timeout-minutes: 60", "timeout-minuets: 60", "Schema validation errors"),
    "expression": ("github.run_id }}", "github.run_idea }}", "run_idea"),
    "input": ("python-version: ${{", "python-versoin: ${{", "python-versoin"),
    "target": ("make lint", "make lnit", "make knows no lnit"),
    "file": ("pyproject.toml", "pyprojcet.toml", "there is no pyprojcet.toml"),
    "script": ("run: make lint", "run: make lint |", "syntax error"),
    "quotes": ('"$RUNNER_TEMP/canary.log"', "$RUNNER_TEMP/canary.log", "SC2086"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_workflow_is_found(default_project, tmp_path, mistake):
    right, wrong, said = MISTAKES[mistake]
    project = shutil.copytree(default_project.path, tmp_path / "project")
    for path in workflows(project):
        path.write_text(path.read_text().replace(right, wrong))
    assert said in "\n".join(complaints(project))


def test_every_action_is_pinned_to_the_commit_of_one_release(template, default_project):
    texts = [p.read_text() for where in (template, default_project.path) for p in workflows(where)]
    uses = [line.strip(" -") for text in texts for line in text.splitlines() if "uses:" in line]
    assert uses and all(PIN.fullmatch(use) for use in uses)
    assert len(set(uses)) == len({use.partition("@")[0] for use in uses})


def test_a_workflow_may_only_read_and_only_for_an_hour(folder):
    assert all(w["permissions"] == {"contents": "read"} for w in workflows(folder).values())
    assert all(job["timeout-minutes"] <= 60 for job in jobs(folder))
    steps = [step for job in jobs(folder) for step in job["steps"]]
    checkouts = [step["with"] for step in steps if "actions/checkout" in step.get("uses", "")]
    allowed = {"persist-credentials": False}, {"persist-credentials": False, "fetch-depth": 0}
    assert checkouts and all(given in allowed for given in checkouts)
    assert not [step for step in steps if "${{" in step.get("run", "")]  # no text becomes script


def test_only_main_publishes_the_image(template):
    """Whatever logs in to a registry asks for main, and no other job may write anything."""
    only = "github.event_name != 'pull_request' && github.ref == 'refs/heads/main'"
    for path, workflow in workflows(template).items():
        for job in workflow["jobs"].values():
            asked = [
                only in (job.get("if", ""), step.get("if", ""))
                for step in job["steps"]
                if re.search("docker (login|push)|make push|imagetools", step.get("run", ""))
            ]
            assert all(asked) and bool(asked) == ("packages" in job.get("permissions", {}))
            assert not asked or path.name == "image.yml"


def test_ci_runs_every_python_that_pyproject_admits(folder):
    workflow = workflows(folder)[folder / ".github" / "workflows" / "ci.yml"]
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    pyproject = tomllib.loads((folder / "pyproject.toml").read_text())
    assert pyproject["project"]["requires-python"] == f">={pythons[0]}"
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + pythons[0].replace(".", "")
    assert pythons == ["3.11", "3.12", "3.13"]


@pytest.fixture(scope="module")
def moved(template, tmp_path_factory) -> tuple[dict[str, str], str]:
    """From pins of some time ago to what the index has now: those versions, and git's diff."""
    copy = shutil.copytree(template, tmp_path_factory.mktemp("newest") / "template")
    for home in (copy / "cookiecutter.json", copy / "image" / "pyproject.toml"):
        text = home.read_text()
        for name, version in LONG_AGO.items():
            pin = rf'("_{name}_version": "|"{name}==)[\d.]+"'
            text = re.sub(pin, rf'\g<1>{version}"', text)
        home.write_text(text)
    git("commit", "--quiet", "--all", "--no-verify", "--message", "Long ago", cwd=copy)
    done = execute(sys.executable, "newest_versions.py", cwd=copy, env=OWN_TOOLS)
    rows = re.findall(r"^\| (\w+) \| (\S+) \| (\S+) \|$", done.stdout, re.MULTILINE)
    assert {name: was for name, was, _ in rows} == LONG_AGO, done.stdout
    return {name: now for name, _, now in rows}, git("diff", "--unified=0", cwd=copy)


def test_newest_versions_move_every_home_of_a_version_and_nothing_else(moved):
    versions, changed = moved
    for name, version in versions.items():
        assert numbers(version) >= numbers(QUESTIONS[f"_{name}_version"])
        assert f'+  "_{name}_version": "{version}",' in changed
        assert f'+  "{name}=={version}",' in changed
    assert len(re.findall(r"^\+ ", changed, re.MULTILINE)) == 2 * len(versions)


def test_a_projects_canary_locks_the_newest_torch_and_leaves_the_rest(moved, bake):
    """Its first lines are run, up to the installation, in which torch is 3 GB."""
    project = bake({})
    job = workflows(project.path)[project.path / ".github" / "workflows" / "canary.yml"]["jobs"]
    [script] = [s["run"] for s in job["newest-torch"]["steps"] if "sed -i" in s.get("run", "")]
    environment = os.environ | job["newest-torch"]["env"] | {"RUNNER_TEMP": str(project.path)}
    environment["PYTHON"] = sys.executable
    before = pins(project.path)
    done = project.run("bash", "-ec", script.partition("make setup")[0], env=environment)
    assert done.returncode == 0 and not list(project.path.glob(".venv/.ready*")), done.stderr
    after = pins(project.path)
    assert {name: after[name] for name in moved[0]} == moved[0]
    for untouched in ("numpy", "jupyterlab", "ruff"):
        assert after[untouched] == before[untouched]
