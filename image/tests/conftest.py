"""The built image, asked from outside: every test starts real containers of it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
IMAGE = os.environ["IMAGE"]  # `make test-image` sets it
CUDA = IMAGE.rpartition("-")[2]
ANYBODY = ("--user", "1234:1234")  # no user has this number


def execute(*command, **options) -> subprocess.CompletedProcess:
    """Any command, without raising: both streams in .stdout, and its exit code."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run([str(part) for part in command], **options)


def docker(*arguments, **options) -> str:
    done = execute("docker", *arguments, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def run(*command, image=IMAGE, options=(), **more) -> subprocess.CompletedProcess:
    """A command in a fresh container that is gone afterwards."""
    return execute("docker", "run", "--rm", "--interactive", *options, image, *command, **more)


def output(*command, **more) -> str:
    done = run(*command, **more)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def python(code: str, *arguments, **more) -> str:
    return output("python", "-", *arguments, input=code, **more)


@contextmanager
def container(*command, image=IMAGE, options=()):
    """The name of a container that runs meanwhile."""
    started = docker("run", "--detach", *options, image, *command).splitlines()[-1]
    try:
        yield started
    finally:
        docker("rm", "--force", "--volumes", started)


def logs_with(pattern: str, name: str, seconds: float = 60) -> re.Match:
    """Wait until the container has printed this."""
    deadline = time.monotonic() + seconds
    while not (found := re.search(pattern, printed := docker("logs", name))):
        assert time.monotonic() < deadline, printed
        time.sleep(0.2)
    return found


@pytest.fixture
def port() -> int:
    """A free one, the same within and without: so it holds in the host's network, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def own_folder(tmp_path):
    """A folder of a user who is not root, as it would be mounted, and the option for that user."""
    uid, gid = (os.getuid(), os.getgid()) if os.getuid() else (1234, 1234)
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.chown(folder, uid, gid)
    return folder, ("--user", f"{uid}:{gid}", "--volume", f"{folder}:/workspace")
