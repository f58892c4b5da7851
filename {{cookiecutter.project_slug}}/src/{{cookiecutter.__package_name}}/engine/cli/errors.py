"""What went wrong and what to do about it, in a line: a mistake in the configuration, or a fault
outside of the code."""

import csv
import difflib
import errno
import re
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from ..errors import UserError
from ..monitor.gpu import out_of_memory

UNUSABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
SELF_EXPLAINING = (MisconfigurationException, UnicodeDecodeError, csv.Error)
SELF_EXPLAINING_MESSAGE = "is not in bounds|You selected an invalid"  # Lightning's
KNOWN_FAULTS = {  # a pattern in the message, and what to print
    # gloo's; NCCL waits for its end
    r"Connection (closed|reset) by peer": (
        "another process of this run has ended; it says why, unless the system ended it."
    ),
    r"^(\S+) does not have a deterministic implementation": (
        r"\1 differs in its last bits each time: --trainer.deterministic warn"
    ),
    r"CUDAGraphs that has been overwritten": (
        "CUDA graphs wrote over summed gradients, or the like: --model.compile default"
    ),
    r"^(.*DataLoader worker.*)": (
        r"\1 It was ended by the system, mostly for want of memory: "
        "set --data.workers lower, or --data.prefetch 2, then: make resume"
    ),
}

UNKNOWN = re.compile(r"(?:unrecognized arguments:|does not accept option) '?-*([\w.]+)")
WRONG = re.compile(r'Parser key "([^"]+)":?\s*(.*)', re.DOTALL)
FOUND = re.compile(r"(?:Got value|Given value): (.+?)\s*$", re.MULTILINE)
IN_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "list": "a list"}
IN_WORDS |= {"bool": "true or false", "NoneType": "null", "dict": "a mapping"}
EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value|$)", re.MULTILINE)


def explain(error: BaseException) -> str | None:
    """Return a page on an error that its reader can mend, or None: then it needs its traceback."""
    if cause := out_of_memory(error):
        return "\n".join(getattr(error, "__notes__", [f"out of GPU memory: {cause}"]))
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        return f"{error.filename}: {error.strerror}. Make it usable, or work on a copy."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full. Free space, then go on with: make resume"
    message = str(error)
    if isinstance(error, SELF_EXPLAINING) or re.search(SELF_EXPLAINING_MESSAGE, message):
        return " ".join(message.split())
    for pattern, advice in KNOWN_FAULTS.items():
        if found := re.search(pattern, message):
            return found.expand(advice)
    return None


class Parser(LightningArgumentParser):
    """Lightning's parser, which says a mistake in one line instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        known = list(parser.get_defaults(skip_validation=True).keys())
        raise UserError(in_one_line(message, known)) from None


def in_one_line(message: str, known: list[str]) -> str:
    """Return jsonargparse's message in one line, with the `known` key that was meant."""
    if unknown := UNKNOWN.search(message):
        close = difflib.get_close_matches(unknown[1], known, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        return f"{unknown[1]} is no setting.{meant} All of them: fit --help-all"
    wrong, found = WRONG.search(message), FOUND.search(message)
    if not wrong or not found:
        return " ".join((f"{wrong[1]}: {wrong[2]}" if wrong else message).split())
    kinds = [_in_words(kind) for kind in EXPECTED.findall(wrong[2])]
    return f"{wrong[1]} is {found[1]!r}; expected {' or '.join(dict.fromkeys(kinds))}."


def _in_words(kind: str) -> str:
    """Return the name of a type as YAML's reader knows it."""
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    return IN_WORDS.get(kind, re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", kind))
