"""The Jinja filter `checked`: stops cookiecutter and cruft before they make a folder.

The rules are in hooks/pre_gen_project.py. cookiecutter.json applies them through this filter,
because cookiecutter prints a traceback after a failing hook, and because a hook cannot read the
template's locks.
"""

import re
import runpy
from pathlib import Path

from jinja2.ext import Extension

TEMPLATE = Path(__file__).parent


def locked_packages() -> set[str]:
    """Return the packages that the locks of all tasks name, as Python imports them."""
    locks = TEMPLATE.glob("{{cookiecutter.project_slug}}/**/*.lock")
    names = re.findall(r"^([\w.-]+)==", "\n".join(lock.read_text() for lock in locks), re.MULTILINE)
    return {re.sub(r"[.-]", "_", name.lower()) for name in names}


def checked(answers: dict) -> str:
    """Return 'yes', or exit with code 1 and a report of every problem."""
    rules = runpy.run_path(str(TEMPLATE / "hooks" / "pre_gen_project.py"))
    if report := rules["report"](answers, locked_packages()):
        raise SystemExit(report)
    return "yes"


class CheckedAnswers(Extension):
    def __init__(self, environment) -> None:
        super().__init__(environment)
        environment.filters["checked"] = checked
