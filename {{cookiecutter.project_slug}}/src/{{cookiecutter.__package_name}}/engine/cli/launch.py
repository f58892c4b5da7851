"""Start one process per device with torchrun, and share values between the processes."""

import logging
import os
import pickle
import signal
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from ..ranks import is_rank_zero
from ..run.folder import RUN_FOLDER_VARIABLE
from ..run.record import RunRecord


def is_launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched() -> tuple[int, int] | None:
    """Return torchrun's (processes per node, nodes), or None without torchrun."""
    if not is_launched():
        return None
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


def of_every_rank(name: str, value: Any) -> list[Any]:
    """Return the values that all ranks of the launch pass under this name, in rank order."""
    if not is_launched():
        return [value]
    store, ranks = _store(), range(int(os.environ["WORLD_SIZE"]))
    store.set(f"{name}/{os.environ['RANK']}", pickle.dumps(value))
    return [pickle.loads(store.get(f"{name}/{rank}")) for rank in ranks]


def of_rank_zero(name: str, make: Callable[[], Any]) -> Any:
    """Return, on every rank, the value that `make` returns on rank 0."""
    if not is_launched():
        return make()
    if is_rank_zero():
        _store().set(name, pickle.dumps(value := make()))
        return value
    return pickle.loads(_store().get(name))


@cache
def _store() -> Any:
    """Return the launch's key-value store, which works before there is a process group."""
    from torch.distributed import PrefixStore, rendezvous

    store, _, _ = next(rendezvous("env://"))
    store.set_timeout(timedelta(hours=1))  # rank 0 may first read its data
    return PrefixStore("engine", store)


def launch(
    package: str, processes: int, threads: int, arguments: list[str], run_folder: Path
) -> int:
    """Run `python -m PACKAGE ARGUMENTS` in several processes and return the exit status.

    It is that of the first process that failed, or 128 plus the signal that ended this one.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ[RUN_FOLDER_VARIABLE] = str(run_folder)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    flags = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    try:
        torchrun([*flags, "-m", package, *arguments])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        signalled = status in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        if rank and not signalled and (run_folder / "run.json").exists():
            # Rank 0 knows only that it was terminated.
            reason = f"rank {rank} ended with exit code {failure.exitcode}"
            RunRecord(run_folder).update(state="failed", reason=reason)
        return status
    except SignalException as error:
        return 128 + signal.Signals(error.sigval)
    return 0
