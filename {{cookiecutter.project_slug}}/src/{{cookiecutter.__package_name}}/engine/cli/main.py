"""python -m <package> VERB: find the verb, and print help before torch is imported.

verbs.py lists the verbs. With `--run FOLDER` (or `--run latest`), fit resumes a run; validate, test
and predict load its best checkpoint. `--elastic` resumes on other devices, `--until STEP` stops
early. Every key of the configuration is also a flag: --trainer.max_epochs 3.
"""

import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import UserError
from .help import help_of
from .project import Project, collecting_later
from .verbs import VERBS, parse

if TYPE_CHECKING:
    from ..contract import Read
    from ..data.module import Data
    from ..task import Task

HELP = {"-h", "--help"}
ALL = "--help-all"


def main(
    *,
    task: "str | type[Task]",
    data: "str | type[Data]",
    read: "str | Read | None" = None,
    pictures: str | Callable | None = None,
    links: Mapping[str, str] | None = None,
    arguments: list[str] | None = None,
) -> int:
    """Run the command line of a project and return its exit status.

    The project's `__main__.py` calls it; contract.py describes the arguments. The status is 0, 1
    for a crash, 2 for wrong settings or data, 3 if the loss is not finite, 130 after Ctrl-C, 143
    after SIGTERM.
    """
    package = str(sys._getframe(1).f_globals["__package__"])
    project = Project(package, task, data, read, pictures, links or {})
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    asked = HELP if verb in VERBS and VERBS[verb].tool is None else {*HELP, ALL}  # fit: Lightning's
    if verb in asked or (verb in VERBS and not asked.isdisjoint(rest)):
        print(help_of(verb, project))
        return 0
    try:
        options, flags = parse(verb, package, rest)
    except UserError as error:
        print(f"error: {error}" if verb else help_of("", project), file=sys.stderr)
        return 2
    fresh = "torch" not in sys.modules
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores free
    with collecting_later():
        from .command import run

        if fresh:
            gc.freeze()  # garbage collection skips the libraries from now on, also in workers
    return run(project, verb, options, flags)
