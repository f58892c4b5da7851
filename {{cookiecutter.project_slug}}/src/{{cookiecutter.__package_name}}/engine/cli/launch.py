"""Start one process per device with torchrun, the one engine for many GPUs and many machines."""

import logging
import os
import signal
from pathlib import Path

from ..run.folder import RUN_FOLDER_VARIABLE
from ..run.record import RunRecord


def is_launched() -> bool:
    """Return whether this process is one that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(
    package: str, processes: int, threads: int, arguments: list[str], run_folder: Path
) -> int:
    """Run `python -m PACKAGE ARGUMENTS` in several processes and return their exit status: that of
    the first that failed, or 128 plus the signal that ended this one.
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
            # Rank 0 only knows that it was ended.
            reason = f"rank {rank} ended with exit code {failure.exitcode}"
            RunRecord(run_folder).update(state="failed", reason=reason)
        return status
    except SignalException as error:
        return 128 + signal.Signals(error.sigval)
    return 0
