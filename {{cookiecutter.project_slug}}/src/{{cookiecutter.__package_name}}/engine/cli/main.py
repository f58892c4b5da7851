"""python -m <package> VERB: find the verb, and print help before torch is imported.

verbs.py lists the verbs. With `--run FOLDER` (or `--run latest`), fit resumes a run; validate, test
and predict load its best checkpoint. `--elastic` resumes on other devices, `--until STEP` stops
early. Every key of the configuration is also a flag: --trainer.max_epochs 3.
"""

import gc
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UserError
from ..home import settle
from ..run.environment import check_own_code
from .help import help_of
from .later_imports import import_later
from .project import Project, collecting_later
from .quick_exit import QuickExit
from .verbs import VERBS, parse

if TYPE_CHECKING:
    from ..contract import Find, Look, Read, Several
    from ..data.module import Data
    from ..task import Task

HELP = {"-h", "--help"}
ALL = "--help-all"
RAISING = ("strict", "surrogateescape")  # the latter in the C locale; it only shows bytes


def main(
    *,
    task: "str | type[Task]",
    data: "str | type[Data]",
    inputs: "str | Find | None" = None,
    read: "str | Read | None" = None,
    pictures: str | Callable | None = None,
    look: "str | Look | None" = None,
    links: Mapping[str, str] | None = None,
    read_flags: Mapping[str, str] | None = None,
    several: "str | Several | None" = None,
    arguments: list[str] | None = None,
) -> int:
    """Run the command line of a project and return its exit status.

    The project's `__main__.py` calls it; contract.py describes the arguments. There, it does not
    return: it ends the program. The status is 0, 1 for a crash, 2 for wrong settings or data, 3 if
    some rows have no prediction, 4 if the loss is not finite, 130 after Ctrl-C, 143 after SIGTERM.
    """
    caller = sys._getframe(1).f_globals
    is_program = arguments is None and vars(sys.modules["__main__"]) is caller
    end = QuickExit() if is_program else int
    package = str(caller["__package__"])
    parts = task, data, read, pictures, links or {}, read_flags or {}, several
    project = Project(package, *parts, inputs=inputs, look=look)
    return end(_status(project, sys.argv[1:] if arguments is None else arguments))


def _status(project: Project, words: list[str]) -> int:
    show_all_characters()
    try:
        return _main(project, words)
    except KeyboardInterrupt:
        print("\nInterrupted (SIGINT).", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what read the output has ended, for example head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _main(project: Project, words: list[str]) -> int:
    verb, *rest = words or [""]
    asked = HELP if verb in VERBS and VERBS[verb].tool is None else {*HELP, ALL}  # fit: Lightning's
    if verb in asked or (verb in VERBS and not asked.isdisjoint(rest)):
        print(help_of(verb, project), flush=True)
        return 0
    try:
        options, flags = parse(verb, project.package, rest, project.read_flags)
    except UserError as error:
        print(f"error: {error}" if verb else help_of("", project), file=sys.stderr)
        return 2
    if VERBS[verb].quick:
        return _run_quick(project, verb, options, flags)
    settle()
    fresh = "torch" not in sys.modules
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores free
    import_later()
    with collecting_later(), ending_at_once():
        from ..fast.first_use import start_driver

        start_driver()
        from .command import run

        if fresh:
            gc.freeze()  # garbage collection skips the libraries from now on, also in workers
    return run(project, verb, options, flags)


def _run_quick(project: Project, verb: str, options: Namespace, flags: list[str]) -> int:
    """Run a verb that needs neither torch nor the project's code."""
    try:
        check_own_code(project.package)
        tool = import_module(f"..tools.{VERBS[verb].tool}", __package__)
        return tool.main(project, options, flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status


def show_all_characters() -> None:
    """Let output that takes only some characters, such as ASCII, show `?` for others."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") in RAISING and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process while libraries are imported: some swallow KeyboardInterrupt."""

    def end(*_: object) -> None:
        os.write(2, b"\nInterrupted (SIGINT).\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, or not ours to change
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
