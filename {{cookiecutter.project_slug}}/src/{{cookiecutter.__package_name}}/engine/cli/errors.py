"""Explain in one line a wrong configuration, or an error that the code did not cause."""

import csv
import difflib
import errno
import re
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from ..data.open_files import FEW_OPEN_FILES
from ..errors import FULL, UserError, hint
from ..monitor.gpu import out_of_memory
from ..own_code import own_calls
from ..paths import project_root, shown

UNUSABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
SELF_EXPLAINING = (MisconfigurationException, UnicodeDecodeError, csv.Error)
SELF_EXPLAINING_MESSAGE = "is not in bounds|You selected an invalid"  # Lightning's
KNOWN_ERRORS = {  # a pattern in the message of a RuntimeError, and what to print
    # from gloo; NCCL waits until the process ends
    r"Connection (closed|reset) by peer": (
        "another process of this run has ended: see its message, or whether the system killed it."
    ),
    r"port: (\d+).*EADDRINUSE": (
        r"another program uses port \1. Give torchrun another --rdzv-endpoint or --master-port."
    ),
    r"^(\S+) does not have a deterministic implementation": (
        r"\1 differs in its last bits each time. Allow it with --trainer.deterministic warn"
    ),
    r"CUDAGraphs that has been overwritten": (
        "CUDA graphs overwrote a tensor that is still used. Train without: --model.compile default"
    ),
    r"^(DataLoader worker \(pid.*)": (
        r"\1 The system killed it, probably because memory ran out. "
        "Lower --data.workers, or set --data.prefetch 2, then run the same command again, or"
        " make resume"
    ),
}

# Common names for a setting.
OTHER_WORDS = {"lr": "model.learning_rate", "epochs": "trainer.max_epochs"}
OTHER_WORDS |= {"gpus": "trainer.devices", "num_workers": "data.workers", "seed": "seed_everything"}
UNKNOWN = re.compile(r"(?:unrecognized arguments:|does not accept option) '?-*([\w.]+)")
LINKED = re.compile(r"argument (data\.\w+) --> (\S+):")  # a setting that the data determine
MISSING = re.compile(r'Parser key "([^"]+)":?\s*File does not exist: .?([^\n]+?)\'?$')
NO_YAML = re.compile(r"Problems parsing config:\s*(.+\"<unicode string>\".+)", re.DOTALL)
NO_SECTIONS = re.compile(r"Unexpected config:(.*)", re.DOTALL)
WRONG = re.compile(r'Parser key "([^"]+)":?\s*(.*)', re.DOTALL)
FOUND = re.compile(r"(?:Got value|Given value): (.+?)\s*$", re.MULTILINE)
IN_WORDS = {"int": "a whole number", "float": "a number", "str": "a string", "list": "a list"}
IN_WORDS |= {"bool": "true or false", "NoneType": "null", "dict": "a mapping ({name: value})"}
EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value|$)", re.MULTILINE)


def explain(error: BaseException, fitting: bool = True) -> str | None:
    """Return an explanation if the user can fix the error, or None if it needs its traceback.

    `fitting` says whether a run was trained, which can be resumed.
    """
    if cause := out_of_memory(error):
        return "\n".join(getattr(error, "__notes__", [f"out of GPU memory: {cause}"]))
    if isinstance(error, OSError) and (explanation := _without_room(error, fitting)):
        return explanation
    message = str(error)
    for pattern, advice in KNOWN_ERRORS.items() if isinstance(error, RuntimeError) else ():
        if found := re.search(pattern, message):
            return found.expand(advice)
    return None if own_calls(error) else _of_the_engine(error, message)


def _of_the_engine(error: BaseException, message: str) -> str | None:
    """Return an explanation of an error that the project's own code did not raise."""
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        return f"{error.filename}: {error.strerror}. Change the permissions, or work on a copy."
    if isinstance(error, SELF_EXPLAINING) or re.search(SELF_EXPLAINING_MESSAGE, message):
        return " ".join(message.split())
    return None


def _without_room(error: OSError, fitting: bool) -> str | None:
    """Return what to do if a disk, or the number of open files, is used up; else None."""
    if error.errno in FULL:
        where = f"{error.filename}: " if error.filename else ""
        again = ": make resume (make train if there is no checkpoint)"
        if not fitting:
            again = " run the same command again"
        return f"{where}{error.strerror}: the disk or quota is full. Free space, then{again}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}. {FEW_OPEN_FILES}"
    return None


class Parser(LightningArgumentParser):
    """Lightning's parser. It reports an error in one line, without the usage.

    It takes no abbreviated names of settings, which a new setting would make ambiguous.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"allow_abbrev": False})

    def parse_path(self, cfg_path: Any, *args: Any, **options: Any) -> Any:
        """Parse a recipe; an error names it."""
        try:
            return super().parse_path(cfg_path, *args, **options)
        except UserError as error:
            raise UserError(f"{shown(Path(str(cfg_path)).absolute())}: {error}") from None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if ex is not None and own_calls(ex):  # a class that a setting names can't be imported
            raise ex
        parser = getattr(ex, "subcommand_parser", None) or self
        known = list(parser.get_defaults(skip_validation=True).keys())
        raise UserError(in_one_line(message, known)) from None


def in_one_line(message: str, known: list[str]) -> str:
    """Return jsonargparse's message in one line, with the closest `known` key."""
    if unknown := UNKNOWN.search(message):
        other = OTHER_WORDS.get(unknown[1].rpartition(".")[2])
        close = [other] if other in known else difflib.get_close_matches(unknown[1], known, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        return f"unknown setting {unknown[1]}.{meant} All settings: fit --help-all"
    if linked := LINKED.search(message):
        return f"{linked[2]} comes from the data, as {linked[1]}: remove it"
    if missing := MISSING.search(message):
        return f"{missing[1]}: {_no_recipe(Path(missing[2]))}"
    if (unusable := _of_unusable_recipe(message)) is not None:
        return unusable
    wrong, found = WRONG.search(message), FOUND.search(message)
    if not wrong or not found:
        return " ".join((f"{wrong[1]}: {wrong[2]}" if wrong else message).split())
    kinds = [_in_words(kind) for kind in EXPECTED.findall(wrong[2])]
    return f"{wrong[1]} is {found[1]!r}; expected {' or '.join(dict.fromkeys(kinds))}."


def _no_recipe(path: Path) -> str:
    """Return that there is no such recipe, and which there are."""
    root, here = project_root(), Path.cwd()
    where = f", neither in {here} nor in {root}" if here != root else ""
    recipes = sorted(f"configs/{file.name}" for file in root.glob("configs/*.yaml"))
    meant = hint(f"configs/{path.stem}.yaml", recipes)
    found = f"{shown(path)} does not exist{where if path.is_relative_to(here) else ''}."
    return f"{found}{meant} There are {', '.join(recipes)}."


def _of_unusable_recipe(message: str) -> str | None:
    """Return what is wrong with a file that is no YAML, or has no sections."""
    if problem := NO_YAML.search(message):
        where = re.sub(r'\s*in "<unicode string>",', " in", problem[1]).replace("\n", ", ")
        tab = ": perhaps a tab; indent with spaces" if "cannot start any token" in where else ""
        return f"the recipe is not valid YAML: {' '.join(where.split())}{tab}"
    if problem := NO_SECTIONS.search(message):
        text = " ".join(problem[1].split())
        found = repr(text) if text else "empty"
        return f"the recipe is {found}; expected sections such as data, model and trainer."
    return None


def _in_words(kind: str) -> str:
    """Return a Python type in words."""
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    choices = re.fullmatch(r"typing\.Literal\[(.+)\]", kind)
    if choices:
        return f"one of {choices[1]}" if "," in choices[1] else choices[1]
    return IN_WORDS.get(kind, kind)
