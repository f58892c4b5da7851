"""What the engine's tests share: the command line, called in this process, and a finished run."""

import os
import random
import runpy
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import warm
from torch._inductor import config as inductor_config

import {{ cookiecutter.__package_name }} as package

Command = Callable[..., int]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
STOPS += (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--draw", type=int, help="run at most so many cases of each test")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("DRAW_SEED", str(random.randrange(10**6)))  # also of other processes


def pytest_report_header(config: pytest.Config) -> str | None:
    most = config.getoption("--draw")
    return f"{most} cases of each test: DRAW_SEED={os.environ['DRAW_SEED']}" if most else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --draw, leave out all but some cases of each test, drawn at random."""
    if not (most := config.getoption("--draw")):
        return
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    drawn = set()
    for name, each in cases.items():
        draw = random.Random(f"{os.environ['DRAW_SEED']} {name}")
        drawn.update(draw.sample(each, min(most, len(each))))
    config.hook.pytest_deselected(items=[item for item in items if item not in drawn])
    items[:] = [item for item in items if item in drawn]


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[None]:
    """Keep the caller's wandb account, proxies and caches from the tests.

    One thread: networks as small as these only wait for a second one. What is compiled for a CPU
    is compiled without vectors: to find out which the machine has takes 20 s. Other processes start
    warm, see warm.py.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inductor_config.cpp, "vec_isa_ok", False)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        empty = tmp_path_factory.mktemp("surroundings")
        patch.setenv("NETRC", str(empty / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(empty))
        patch.setenv("XDG_CACHE_HOME", str(empty))
        patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RUN_UNLISTED", "1")  # or runs/ would get a link to each folder of a test
        patch.setenv("FULL_TRACEBACK", "1")  # what a test lets crash is code of its own
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        shared = tmp_path_factory.getbasetemp()
        owner = os.getpid()
        if hasattr(pytestconfig, "workerinput"):  # one of several test processes
            shared, owner = shared.parent, os.getppid()
        (shared / "warm").mkdir(exist_ok=True)
        patch.setenv(warm.SERVER, str(shared / "warm"))
        patch.setenv(warm.OWNER, str(owner))
        patch.setattr(subprocess, "Popen", warm.WarmPopen)
        yield


def command_of(name: str, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Return `python -m NAME` as a function, with `folder` as the run's folder."""

    def command(*arguments: str, folder: Path | None = None) -> int:
        with pytest.MonkeyPatch.context() as patch:
            if arguments[:1] != ("seeds",):  # which chooses its folders itself
                patch.setenv("RUN_FOLDER", str(folder or tmp_path_factory.mktemp("run")))
            patch.setattr(sys, "argv", [name, *arguments])
            before = [signal.getsignal(stop) for stop in STOPS]
            try:
                runpy.run_module(name, run_name="__main__")
            except SystemExit as end:
                return int(end.code or 0)
            finally:  # torchrun leaves its own
                for stop, handler in zip(STOPS, before, strict=True):
                    signal.signal(stop, handler)
        raise AssertionError(f"{name} did not exit")

    return command


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Call the project's command line and return its exit status."""
    return command_of(package.__name__, tmp_path_factory)


@pytest.fixture(scope="session")
def trained(call: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs over the {{ cookiecutter.__recipe }}."""
    folder = tmp_path_factory.mktemp("trained")
    status = call(
        "fit", "--config", "configs/{{ cookiecutter.__recipe }}.yaml", "--trainer.max_epochs", "4", folder=folder
    )
    assert status == 0
    return folder


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
