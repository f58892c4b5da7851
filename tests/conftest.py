"""Real bakes for every test: of the template as git would commit it, and apart from this user's own
cookiecutter and git settings."""

import fcntl
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter as cookiecutter_api

TEMPLATE = Path(__file__).parents[1]
sys.path.append(str(TEMPLATE / "{{cookiecutter.project_slug}}" / "tests" / "engine"))
import warm  # noqa: E402

QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text())
BIN = Path(sys.executable).parent
ENVIRONMENT = TEMPLATE / "build" / "test-venv"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that three processes end together.

    A process that has the engine's one test is given another file with it, the fourth: a short one.
    """
    longest = ("engine", "generation", "text", "locks", "demo", "resume", "containers")
    first = [f"test_{name}.py" for name in longest]
    items.sort(key=lambda item: first.index(n) if (n := item.path.name) in first else len(first))


def execute(*command, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Any command, without raising: what it printed (both streams in .stdout) and its exit code."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    return subprocess.run([str(part) for part in command], cwd=cwd, **options)


def cpu_seconds() -> float:
    """What ended child processes have computed, whatever ran beside them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def git(*arguments, cwd: Path) -> str:
    done = execute("git", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commit_all(repository: Path, message: str) -> None:
    git("add", "--all", cwd=repository)
    git("commit", "--quiet", "--no-verify", "--message", message, cwd=repository)


@dataclass(frozen=True)
class BakedProject:
    path: Path

    @property
    def package(self) -> str:
        return re.sub("[-. ]", "_", self.path.name)

    @property
    def source(self) -> Path:
        return self.path / "src" / self.package

    def run(self, *command, **options) -> subprocess.CompletedProcess:
        """Run a command in the project's folder; stdout and stderr come apart."""
        return execute(*command, cwd=self.path, stderr=subprocess.PIPE, **options)

    def locked(self) -> set[tuple[str, str]]:
        """Names and versions of what its locks name."""
        text = "".join(lock.read_text() for lock in self.path.glob("*.lock"))
        return set(re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\\n]+)", text, re.MULTILINE))

    def files(self) -> dict[str, bytes]:
        """Every file that the bake wrote, by its path within the project."""
        found = (p for p in sorted(self.path.rglob("*")) if p.is_file())
        names = {p.relative_to(self.path).as_posix(): p for p in found}
        return {name: p.read_bytes() for name, p in names.items() if not name.startswith(".git/")}


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory):
    """A cookiecutter and a git that know nothing of whoever runs the tests."""
    home = tmp_path_factory.mktemp("settings")
    folders = {"cookiecutters_dir": home / "clones", "replay_dir": home / "replay"}
    config = home / "cookiecutter.yaml"
    config.write_text("".join(f"{key}: {str(folder)!r}\n" for key, folder in folders.items()))
    gitconfig = home / "gitconfig"
    gitconfig.write_text(
        "[user]\nname = Tester\nemail = tester@example.com\n[safe]\ndirectory = *\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOKIECUTTER_CONFIG", str(config))
        patch.setenv("GIT_CONFIG_GLOBAL", str(gitconfig))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores to others
        patch.setenv("RUN_UNLISTED", "1")  # or runs/ would get a link to each folder of a test
        outer_make = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS")
        outer_environment = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "RUN_FOLDER")
        outer_git = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
        outer_tests = tuple(name for name in os.environ if name.startswith("PYTEST_XDIST"))
        for name in (*outer_git, *outer_make, *outer_environment, *outer_tests):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="session")
def template(own_settings, tmp_path_factory) -> Path:
    """A repository, tagged v1, of what `git add --all && git commit` would commit here now."""
    copy = tmp_path_factory.mktemp("template") / "torch-gpu-template"
    names = git("ls-files", "-co", "--exclude-standard", "-z", cwd=TEMPLATE).split("\0")
    for name in filter(None, names):
        if (TEMPLATE / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TEMPLATE / name, copy / name)
    git("init", "--quiet", cwd=copy)
    commit_all(copy, "The template")
    git("tag", "v1", cwd=copy)
    return copy


@pytest.fixture(scope="session")
def bake(template, tmp_path_factory):
    """`bake(answers, out=None)`: a project with these answers and the defaults for all others.

    Answers that the template refuses raise SystemExit with the report.
    """

    def bake(answers: dict | None = None, out: Path | None = None) -> BakedProject:
        out = out or tmp_path_factory.mktemp("bake")
        made = cookiecutter_api(
            str(template), no_input=True, extra_context=answers or {}, output_dir=str(out)
        )
        return BakedProject(Path(made))

    return bake


@pytest.fixture(scope="session")
def default_project(bake) -> BakedProject:
    """The defaults, baked once, with everything committed: look, but leave nothing behind."""
    project = bake()
    commit_all(project.path, "As baked")
    return project


@pytest.fixture(scope="session")
def make(default_project):
    """`make(*arguments)` in a project; all of them share one environment, made by `make setup`."""

    def run(*arguments, project=default_project, **variables):
        settings = os.environ | {"UV_PROJECT_ENVIRONMENT": str(ENVIRONMENT)} | variables
        return project.run("make", *arguments, env=settings)

    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:  # both test processes want it
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("setup")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="session")
def python(make, in_environment, tmp_path_factory):
    """`python(*arguments, cwd, **variables)` of the environment: its exit status, and its words.

    It starts warm, as the processes that it starts do: see warm.py.
    """
    folder, executable = tmp_path_factory.mktemp("warm"), str(ENVIRONMENT / "bin" / "python")
    settings = {warm.SERVER: str(folder), warm.OWNER: str(os.getpid()), warm.PYTHON: executable}

    def run(*arguments, cwd: Path, **variables: str) -> tuple[int, str]:
        environment = in_environment | settings | {"OMP_NUM_THREADS": "1"} | variables
        command = [executable, *map(str, arguments)]
        log = folder / "said"
        with log.open("w") as file:
            process = warm.WarmPopen(command, cwd=cwd, env=environment, stdout=file, stderr=file)
            return process.wait(300), log.read_text()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield run


@pytest.fixture(scope="session")
def in_environment():
    """The variables with which a project's tools are found without make."""
    return os.environ | {
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "MYPY_CACHE_DIR": str(ENVIRONMENT / "mypy-cache"),
    }


@pytest.fixture
def cookiecutter(template, tmp_path):
    """The command line, as typed in the empty folder tmp_path: `cookiecutter(*arguments)`."""

    def run(*arguments, template=template, **options) -> subprocess.CompletedProcess:
        options = {"cwd": tmp_path, "env": os.environ | {"PWD": str(tmp_path)}} | options
        return execute(sys.executable, "-m", "cookiecutter", template, *arguments, **options)

    return run
