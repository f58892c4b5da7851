"""Strange machines: no home, no name, no locks, few files, old SQLite, other versions, spaces."""

import errno
import fcntl
import os
import pwd
import re
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest
from killed import by_python

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine import home
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.paths import (
    cache_folder,
    exclusive_lock,
    project_root,
)
from {{ cookiecutter.__package_name }}.engine.run.checkpoint_files import (
    fsync,
    write_atomically,
)
from {{ cookiecutter.__package_name }}.engine.run.environment import (
    check_own_code,
    warn_of_other_versions,
)
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics
from {{ cookiecutter.__package_name }}.engine.run.record import _only_writer
from {{ cookiecutter.__package_name }}.engine.tools.lock import add
from {{ cookiecutter.__package_name }}.engine.tools.lock import main as lock

ONE_EPOCH = ("--config", "configs/digits.yaml", "--trainer.max_epochs", "1")
JOB = {"JOB_ID": "7", "NTASKS": "4", "JOB_NAME": "mine", "PROCID": "0", "LOCALID": "0"}
JOB |= {"NODEID": "0", "NODELIST": "node[1-2]", "NNODES": "2"}


def test_a_batch_jobs_variables_start_no_other_processes(call, tmp_path, monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert call("fit", *ONE_EPOCH, folder=tmp_path) == 0
    assert "val/accuracy" in read_metrics(tmp_path / "metrics.csv")[-1]
    assert call("test", "--run", str(tmp_path)) == 0


def test_processes_of_srun_without_torchrun_are_refused(call, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert call("fit", *ONE_EPOCH, folder=tmp_path) == 2
    assert "srun started 4 processes" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()


@pytest.fixture
def unsupported(monkeypatch):
    """A file system that knows neither locks nor a folder's fsync."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(os, "fsync", fail)


def test_without_locks_and_fsync_files_are_written(unsupported, tmp_path, capsys):
    fsync(tmp_path)
    write_atomically(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "new"
    with exclusive_lock(tmp_path / "cache") as writable:
        assert writable
    _only_writer(tmp_path).close()
    assert "can't be locked (Function not implemented): train this run" in capsys.readouterr().err


def test_a_failing_disk_is_not_taken_for_one_without_fsync(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "text", "new")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a name, a home or a cache folder; temporary files are in `tmp_path`."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in (*home.NAMES, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_name_and_home_gets_both(nobody, capsys):
    home.settle()
    assert os.environ["USER"] == f"user-{os.getuid()}"
    assert Path.home().parent == nobody and cache_folder() == Path.home() / ".cache"
    assert Path.home().stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_caches_move_from_a_folder_that_cannot_be_written(variable, nobody, monkeypatch, capsys):
    (nobody / "a file").touch()
    monkeypatch.setenv("HOME", str(nobody / "fine"))
    monkeypatch.setenv(variable, str(nobody / "a file"))
    home.settle()
    assert cache_folder().parent == nobody and cache_folder().is_dir()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a file" in said and str(cache_folder()) in said


def test_a_usual_user_keeps_everything(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "ada")
    monkeypatch.delenv("XDG_CACHE_HOME")
    before = dict(os.environ)
    home.settle()
    assert dict(os.environ) == before and cache_folder() == tmp_path / ".cache"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("hard", "fits"), [(64, False), (300, True)])
def test_workers_need_files_that_the_process_may_open(hard, fits):
    code = """
import resource
from {package}.engine.data.open_files import check_open_files
from {package}.engine.errors import UserError
resource.setrlimit(resource.RLIMIT_NOFILE, (60, HARD))
check_open_files(0)
try:
    check_open_files(32)
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
except UserError as error:
    print(error)
"""
    done = by_python(code.replace("HARD", str(hard)))
    expected = "(300, 300)\n" if fits else "This process may have 64 open files, and 32 workers"
    assert done.stdout.startswith(expected), done.stderr


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("around", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE])
def test_output_that_takes_only_ascii_shows_the_rest_as_question_marks(around):
    show = "from {package}.engine.cli.main import show_all_characters as show\nshow()\n"
    done = by_python(show + r"print('4 \xb0C \xb11')", **around)
    assert (done.stdout, done.returncode) == ("4 ?C ?1\n", 0)


@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_another_version_than_the_projects_is_one_line(file, tmp_path, capsys):
    line = '  "{}",\n' if file == "pyproject.toml" else "{} \\\n    --hash=sha256:00\n"
    (tmp_path / file).write_text(line.format("numpy==0.99.1") + line.format("torch==0.98+cpu"))
    warn_of_other_versions(tmp_path)
    said = capsys.readouterr().err
    installed = version("torch")
    assert (
        said.count("\n") == 1 and f"torch is {installed}, but this project names 0.98+cpu" in said
    )
    assert "this project names 0.99.1" in said
    plain = installed.partition("+")[0]
    (tmp_path / file).write_text(line.format(f"torch=={plain}"))
    warn_of_other_versions(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_copied_environment_trains_no_other_folders_code(tmp_path, monkeypatch):
    copy = tmp_path / "copy of it"
    (copy / "src" / package.__name__).mkdir(parents=True)
    (copy / "src" / package.__name__ / "__main__.py").touch()
    (copy / "notebooks").mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for folder in (project_root(), project_root() / "configs", tmp_path):
        monkeypatch.chdir(folder)
        check_own_code(package.__name__)
    for folder in (copy, copy / "notebooks"):
        monkeypatch.chdir(folder)
        with pytest.raises(UserError, match=f"belongs to {re.escape(str(project_root()))}: "):
            check_own_code(package.__name__)
    monkeypatch.setenv("PYTHONPATH", str(Path(package.__file__).parents[1]))
    check_own_code(package.__name__)


def test_a_package_that_cannot_be_added_changes_nothing(tmp_path, monkeypatch, capfd):
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("uv", path=tools) is None:
        pytest.skip("needs uv")
    monkeypatch.setenv("PATH", tools)
    project = '[project]\nname = "one"\nversion = "1"\nrequires-python = ">=3.11"\n'
    (tmp_path / "pyproject.toml").write_text(f"{project}dependencies = []\n")
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert lock(None, None, ["--add", "a-name-that-is-mistyped"]) != 0
    assert "a-name-that-is-mistyped can't be added" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_package_is_added_without_the_index_that_has_it(tmp_path, monkeypatch):
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("uv", path=tools) is None:
        pytest.skip("needs uv")
    monkeypatch.setenv("PATH", tools)
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.setenv(name, f"http://name:{tmp_path.name}@127.0.0.1:9/simple")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "one"\nversion = "1"\n')
    add(tmp_path, ["six>=1"])
    written = (tmp_path / "pyproject.toml").read_text()
    assert '"six>=1"' in written and "127.0.0.1" not in written
