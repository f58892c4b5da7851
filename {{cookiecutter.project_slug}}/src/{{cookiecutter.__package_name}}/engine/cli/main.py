"""python -m <package> fit|validate|test|predict --config configs/NAME.yaml

`--run FOLDER` (or `--run latest`) resumes a run with fit; the others load its best checkpoint.
`--elastic` resumes on other devices, `--until STEP` ends early. Every key of the configuration is a
flag as well: --trainer.max_epochs 3.
"""

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module

from ..contract import Read
from ..data.module import Data
from ..errors import UserError
from ..monitor import quiet_lightning
from ..nvml import prefer_idle_gpus
from ..ranks import is_rank_zero
from ..run.interruption import Interrupted
from ..task import Task
from .errors import explain
from .project import Project
from .training import train

# Programs beside training: verb -> module in tools/ whose main(project, arguments) it calls.
TOOLS = {
    **{name: name for name in ("bench", "bundle", "lock", "reproduce", "seeds", "serve", "tune")},
    "bench-check": "bench_check",
    "update": "update",
}


def main(
    *,
    task: str | type[Task],
    data: str | type[Data],
    read: str | Read | None = None,
    pictures: str | Callable | None = None,
    links: Mapping[str, str] | None = None,
    arguments: list[str] | None = None,
) -> int:
    """Run the command line of a project and return its exit status.

    It is called by the project's `__main__.py`; contract.py says what is given. Returns 0, 1 for a
    fault, 2 for wrong settings or data, 130 after Ctrl-C, 143 after SIGTERM.
    """
    package = str(sys._getframe(1).f_globals["__package__"])
    project = Project(package, task, data, read, pictures, links or {})
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] and arguments[0] in TOOLS:
        tool = import_module(f"..tools.{TOOLS[arguments[0]]}", __package__)
        return _explained(lambda: tool.main(project, arguments[1:]))
    return _explained(lambda: train(project, arguments))


def _explained(command: Callable[[], int]) -> int:
    """Return the exit status of a command, and say what ended it."""
    quiet_lightning()
    prefer_idle_gpus()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # see images/gpu_decode.py
    try:
        return command()
    except UserError as error:
        said, status = f"error: {error}", 2
    except Interrupted as end:
        resume = " Checkpoint saved. Resume with: make resume" if end.saved else ""
        said, status = f"\nInterrupted ({end.reason}).{resume}", end.status
    except BaseException as error:
        if (page := explain(error)) is None:
            raise
        print(f"error: {page}", file=sys.stderr)  # from whichever process it happened in
        return 2
    if is_rank_zero():
        print(said, file=sys.stderr)
    return status
