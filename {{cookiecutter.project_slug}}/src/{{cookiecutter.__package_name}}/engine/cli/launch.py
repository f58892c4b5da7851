"""Start one process per device with torchrun."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment

from ..errors import UserError
from ..ranks import is_launched
from ..run.folder import RUN_FOLDER_VARIABLE
from ..run.interruption import SIGNALS, drop_closed_terminal
from ..run.record import RunRecord


def launched() -> tuple[int, int] | None:
    """Return torchrun's (processes per node, nodes), or None without torchrun."""
    if not is_launched():
        return None
    return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])


def check_tasks() -> None:
    """Raise UserError if srun started several processes that know nothing of each other."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not is_launched() and tasks.isdecimal() and int(tasks) > 1:
        raise UserError(
            f"srun started {tasks} processes, and each would train a run of its own. Start one"
            " (srun --ntasks=1, or no srun) with --trainer.devices N, or one torchrun a node."
        )


def with_environment(plugins: Any) -> list[Any]:
    """Return the Trainer's plugins with the environment of a process that is alone or torchrun's.

    Lightning would take a batch job's variables for those of processes that the job has started.
    """
    found = [*plugins] if isinstance(plugins, list) else [plugins]
    if not is_launched() and not any(isinstance(each, ClusterEnvironment) for each in found):
        found.append(LightningEnvironment())
    return found


def launch(
    package: str, processes: int, threads: int, arguments: list[str], run_folder: Path | None
) -> int:
    """Run `python -m PACKAGE ARGUMENTS` in several processes and return the exit status.

    It is that of the first process that failed, or 128 plus the signal that ended this one. A
    process that dies is recorded in `run_folder`, if they train a run.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    if run_folder is not None:
        os.environ[RUN_FOLDER_VARIABLE] = str(run_folder)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    heard = (*SIGNALS, signal.SIGQUIT)
    passed_on = [s.name for s in heard if signal.getsignal(s) is not signal.SIG_IGN]
    flags = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    flags.append(f"--signals-to-handle={','.join(passed_on)}")
    options = parse_args([*flags, "-m", package])
    options.training_script_args = arguments  # torchrun would take some for its own, such as --run
    try:
        run(options)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        signalled = status - 128 in SIGNALS
        if run_folder and not signalled and (run_folder / "run.json").exists():
            record = RunRecord(run_folder)
            known = str(record.content.get("reason") or "")
            if record.content["state"] == "running" or (rank and not known.startswith("rank ")):
                reason = f"rank {rank} ended with exit code {failure.exitcode}"
                record.update(state="failed", reason=reason)
        return status
    except SignalException as error:
        drop_closed_terminal()
        return 128 + signal.Signals(error.sigval)
    return 0
