"""The `checked` filter, which stops cookiecutter and cruft before they make a folder.

The rules live in hooks/pre_gen_project.py. cookiecutter.json asks for them here, as a failing hook
would bury their report under cookiecutter's own traceback; and here the locks can be read.
"""

import re
import runpy
from pathlib import Path

from jinja2.ext import Extension

TEMPLATE = Path(__file__).parent


def locked_packages() -> set[str]:
    locks = TEMPLATE.glob("{{cookiecutter.project_slug}}/*.lock")
    names = re.findall(r"^([\w.-]+)==", "\n".join(lock.read_text() for lock in locks), re.MULTILINE)
    return {re.sub(r"[.-]", "_", name.lower()) for name in names}


def checked(answers: dict) -> str:
    """'yes', or the end of the program with exit code 1 and every problem named."""
    rules = runpy.run_path(str(TEMPLATE / "hooks" / "pre_gen_project.py"))
    if report := rules["report"](answers, locked_packages()):
        raise SystemExit(report)
    return "yes"


class CheckedAnswers(Extension):
    def __init__(self, environment) -> None:
        super().__init__(environment)
        environment.filters["checked"] = checked
