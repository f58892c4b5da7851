"""Run a verb and explain what ended it; main.py imports this once there is something to run."""

import argparse
import os
import sys
from importlib import import_module

from ..errors import UserError
from ..monitor import quiet_lightning
from ..nvml import prefer_idle_gpus
from ..ranks import is_rank_zero
from ..run.interruption import Interrupted
from .errors import explain
from .project import Project
from .training import train
from .verbs import VERBS


def run(project: Project, verb: str, options: argparse.Namespace, flags: list[str]) -> int:
    """Run a verb and return its exit status; what ended it is said."""
    quiet_lightning()
    prefer_idle_gpus()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # see images/gpu_decode.py
    try:
        if tool := VERBS[verb].tool:
            return import_module(f"..tools.{tool}", __package__).main(project, options, flags)
        return train(project, [verb, *flags])
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
