"""Tests of the built image from outside: every test starts real containers."""

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
    """Run any command without raising: both streams are in .stdout."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run([str(part) for part in command], **options)


def docker(*arguments, **options) -> str:
    done = execute("docker", *arguments, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def run(*command, image=IMAGE, options=(), **more) -> subprocess.CompletedProcess:
    """Run a command in a new container that is removed afterwards."""
    return execute("docker", "run", "--rm", "--interactive", *options, image, *command, **more)


def output(*command, **more) -> str:
    done = run(*command, **more)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def python(code: str, *arguments, **more) -> str:
    return output("python", "-", *arguments, input=code, **more)


@contextmanager
def container(*command, image=IMAGE, options=()):
    """Yield the name of a running container, and remove it afterwards."""
    started = docker("run", "--detach", *options, image, *command).splitlines()[-1]
    try:
        yield started
    finally:
        docker("rm", "--force", "--volumes", started)


def logs_with(pattern: str, name: str, seconds: float = 60) -> re.Match:
    """Wait until the container has printed a match of the pattern."""
    deadline = time.monotonic() + seconds
    while not (found := re.search(pattern, printed := docker("logs", name))):
        assert time.monotonic() < deadline, printed
        time.sleep(0.2)
    return found


@pytest.fixture
def port() -> int:
    """A free port, the same in the container and outside, so that the host's network works too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def own_folder(tmp_path):
    """A folder of a user other than root, and docker's options to mount it as that user."""
    uid, gid = (os.getuid(), os.getgid()) if os.getuid() else (1234, 1234)
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.chown(folder, uid, gid)
    return folder, ("--user", f"{uid}:{gid}", "--volume", f"{folder}:/workspace")
