"""What the tests share: the command line, called in this process, and one finished run."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor_config

from {{ cookiecutter.__package_name }}.engine.cli.main import main

Command = Callable[..., int]


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the caller's wandb account, proxies and caches from the tests.

    One thread: networks as small as these only wait for a second one. What is compiled for a CPU
    is compiled without vectors: to find out which the machine has takes 20 s.
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
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        yield


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Call the command line with `folder` as the run's folder and return its exit status."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def command(*arguments: str, folder: Path | None = None) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RUN_FOLDER", str(folder or tmp_path_factory.mktemp("run")))
            before = [signal.getsignal(stop) for stop in stops]
            try:
                return main([*arguments])
            except SystemExit as end:  # of several processes
                return int(end.code or 0)
            finally:  # torchrun leaves its own
                for stop, handler in zip(stops, before, strict=True):
                    signal.signal(stop, handler)

    return command


@pytest.fixture(scope="session")
def trained(call: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs over the digits."""
    folder = tmp_path_factory.mktemp("trained")
    status = call(
        "fit", "--config", "configs/digits.yaml", "--trainer.max_epochs", "4", folder=folder
    )
    assert status == 0
    return folder


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
