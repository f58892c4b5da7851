"""Run a verb and report its errors. main.py imports this only when it runs a verb."""

import argparse
import sys
from importlib import import_module

from ..errors import UserError
from ..monitor import quiet_lightning
from ..own_code import report
from ..ranks import is_rank_zero
from ..run.environment import check_own_code
from ..run.interruption import Interrupted
from ..run.runs import is_repeat
from .errors import explain
from .project import Project
from .training import train
from .verbs import VERBS


def run(project: Project, verb: str, options: argparse.Namespace, flags: list[str]) -> int:
    """Run a verb, print the error or interruption that ended it, and return its exit status."""
    quiet_lightning()
    try:
        check_own_code(project.package)
        if tool := VERBS[verb].tool:
            return import_module(f"..tools.{tool}", __package__).main(project, options, flags)
        return train(project, [verb, *flags])
    except UserError as error:
        message, status = f"error: {error}", error.status
    except Interrupted as end:
        is_kept = end.saved and not is_repeat(flags)
        resume = " Checkpoint saved. Resume with: make resume" if is_kept else ""
        message, status = f"\nInterrupted ({end.reason}).{resume}", end.status
    except KeyboardInterrupt:
        message, status = "\nInterrupted (SIGINT).", 130
    except BaseException as error:
        if (explanation := explain(error, verb == "fit")) is not None:
            print(f"error: {explanation}", file=sys.stderr)  # on any rank
            return 2
        if (about_own_code := report(error)) is not None:
            print(about_own_code, file=sys.stderr)
            return 1
        raise
    if is_rank_zero():
        print(message, file=sys.stderr)
    return status
