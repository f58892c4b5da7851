"""A mistake in the configuration in one line: what was found, what is expected, what to do."""

import difflib
import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from ..errors import UserError

UNKNOWN = re.compile(r"(?:unrecognized arguments:|does not accept option) '?-*([\w.]+)")
WRONG = re.compile(r'Parser key "([^"]+)":?\s*(.*)', re.DOTALL)
FOUND = re.compile(r"(?:Got value|Given value): (.+?)\s*$", re.MULTILINE)
EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value|$)", re.MULTILINE)


class Parser(LightningArgumentParser):
    """Lightning's parser, which says a mistake in one line instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        known = list(parser.get_defaults(skip_validation=True).keys())
        raise UserError(in_one_line(message, known)) from None


def in_one_line(message: str, known: list[str]) -> str:
    """Return jsonargparse's message in one line, with the `known` key that was meant."""
    if unknown := UNKNOWN.search(message):
        key = unknown[1]
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        meant = f" Did you mean {close[0]}?" if close else ""
        package = __name__.split(".")[0]
        return f"{key} is no setting.{meant} All of them: python -m {package} fit --help"
    wrong, found = WRONG.search(message), FOUND.search(message)
    if not wrong or not found:
        plain = f"{wrong[1]}: {wrong[2]}" if wrong else message
        return " ".join(plain.split())
    kinds = [_in_words(kind) for kind in EXPECTED.findall(wrong[2])]
    return f"{wrong[1]} is {found[1]!r}; expected {' or '.join(dict.fromkeys(kinds))}."


def _in_words(kind: str) -> str:
    """Return the name of a type as YAML's reader knows it."""
    if literal := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        return f"one of {literal[1]}"
    named = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", kind)
    name = named[1] if named else kind
    plain = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}
    others = {"NoneType": "null", "list": "a list", "dict": "a mapping"}
    return (plain | others).get(name, name)
