"""Start one process per device with torchrun."""

import logging
import os
import signal
from pathlib import Path

from ..ranks import is_launched
from ..run.folder import RUN_FOLDER_VARIABLE
from ..run.record import RunRecord


def launched() -> tuple[int, int] | None:
    """Return torchrun's (processes per node, nodes), or None without torchrun."""
    if not is_launched():
        return None
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


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
        if not signalled and (run_folder / "run.json").exists():
            record = RunRecord(run_folder)
            known = str(record.content.get("reason") or "")
            if record.content["state"] == "running" or (rank and not known.startswith("rank ")):
                reason = f"rank {rank} ended with exit code {failure.exitcode}"
                record.update(state="failed", reason=reason)
        return status
    except SignalException as error:
        return 128 + signal.Signals(error.sigval)
    return 0
