"""Every verb of `python -m <package> VERB`, in a line, and the options of those beside training.

Nothing heavy is imported here: help and mistakes are answered before torch is.
"""

import argparse
import difflib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import UserError

WIDTH = 80  # columns, of all that help says


class Option(NamedTuple):
    """What argparse's add_argument is given."""

    name: str
    how: dict[str, Any]


def option(name: str, help: str, **how: Any) -> Option:
    """Return an option whose help ends with its default, if it has one."""
    default = how.get("default")
    return Option(name, how | {"help": f"{help} ({default})" if default else help})


class Verb(NamedTuple):
    """`tool` is its module in tools/, None for training; `others` names what it hands on."""

    group: str
    help: str
    tool: str | None = None
    options: tuple[Option, ...] = ()
    others: str = ""


RUN = option("--run", "a run's folder, or latest", default="latest", metavar="FOLDER")
CONFIG = option("--config", "the recipe, a file in configs/", type=Path, metavar="FILE")
FITS = "those of fit"
INTO = partial(option, "--into", type=Path, metavar="FOLDER")

VERBS = {
    "fit": Verb("Train", "train a recipe, or resume a run"),
    "seeds": Verb(
        "Train",
        "train with several seeds; print the mean and the spread",
        "seeds",
        (option("seeds", 'different numbers: "1 2 3"', nargs="?", default="", metavar="SEEDS"),),
        others=FITS,
    ),
    "reproduce": Verb(
        "Train",
        "train a run's recorded source again and compare every bit",
        "reproduce",
        (
            RUN,
            option("--until", "compare up to this step, and no weights", type=int, metavar="STEP"),
            INTO(help="train there instead of <run>/reproduce"),
        ),
        others=FITS,
    ),
    "validate": Verb("Evaluate", "score a run's best checkpoint on the validation split"),
    "test": Verb("Evaluate", "score a run's best checkpoint on the test split"),
    "predict": Verb("Evaluate", "write predictions for the test split to predictions.csv"),
    "serve": Verb(
        "Evaluate",
        "answer requests over HTTP with a run's best network",
        "serve",
        (
            RUN,
            option("--host", "0.0.0.0: any machine may ask", default="127.0.0.1", metavar="NAME"),
            option("--port", "0: any free one", type=int, default=8000, metavar="N"),
        ),
    ),
    "bench": Verb(
        "Measure",
        "what AMP, compile, CUDA graphs and the loader gain here",
        "bench",
        (
            CONFIG,
            option("--seconds", "of a turn; unset: 1.5, on a CPU 1", type=float, metavar="S"),
            option("--rounds", "how many turns each row has", type=int, default=3, metavar="N"),
            option("--all-modes", "two more ways to compile, slow", action="store_true"),
            INTO(help="instead of runs/bench/<time>"),
        ),
        others=FITS,
    ),
    "tune": Verb(
        "Measure",
        "measure batch size and loader; print the lines for the recipe",
        "tune",
        (
            CONFIG,
            option("--seconds", "of each measurement", type=float, default=2.0, metavar="S"),
            INTO(help="instead of runs/tune/<time>"),
        ),
        others=FITS,
    ),
    "bench-check": Verb(
        "Measure",
        "fail if training is slower than in a bench.json",
        "bench_check",
        (
            option("baseline", "a bench.json, or its folder", type=Path),
            option("--seconds", "of each turn; unset: as there", type=float, metavar="S"),
            option(
                "--slower",
                "sleep this share: tests the check",
                type=float,
                default=0.0,
                metavar="X",
            ),
        ),
    ),
    "lock": Verb(
        "Environment",
        "renew the locks from pyproject.toml",
        "lock",
        others="those of `uv pip compile`, such as --upgrade",
    ),
    "bundle": Verb(
        "Environment",
        "write all that a machine without network needs",
        "bundle",
        (
            option(
                "--folder", "where to", type=Path, default=Path("dist/bundle"), metavar="FOLDER"
            ),
            option("--image", "the image to save beside the wheels", metavar="NAME"),
            option("--no-image", "only the wheels", action="store_true"),
        ),
    ),
    "update": Verb(
        "Environment",
        "merge a newer template into this project, replace the engine",
        "update",
        (option("--checkout", "a tag, branch or commit; unset: the newest", metavar="REF"),),
    ),
}
# What people call a verb, as make does; of other words the closest verb is named.
OTHER_WORDS = {"train": "fit", "resume": "fit", "evaluate": "test", "eval": "test"}


class OptionParser(argparse.ArgumentParser):
    """argparse's parser, which says a mistake in a line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. All options: {self.prog} --help")


def program(package: str, verb: str) -> str:
    return f"python -m {package} {verb}"


def parser_of(name: str, package: str) -> OptionParser:
    """Return the parser of the options of a verb beside training."""
    verb = VERBS[name]
    parser = OptionParser(
        prog=program(package, name),
        description=f"{verb.help[0].upper()}{verb.help[1:]}.",
        epilog=f"Other flags are {verb.others}." if verb.others else None,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=WIDTH),
        allow_abbrev=False,
    )
    for name_or_flag, how in verb.options:
        parser.add_argument(name_or_flag, **how)
    return parser


def parse(name: str, package: str, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of a verb, and the flags that it hands on: those of training are all so.

    Raises UserError for what it does not know.
    """
    if name not in VERBS:
        raise _unknown(name)
    if VERBS[name].tool is None:
        return argparse.Namespace(), ["--help" if a == "--help-all" else a for a in arguments]
    parser = parser_of(name, package)
    if VERBS[name].others:
        return parser.parse_known_args(arguments)
    return parser.parse_args(arguments), []


def _unknown(found: str) -> UserError:
    """Return what to say of a first word that is no verb."""
    close = difflib.get_close_matches(found, VERBS, n=1)
    meant = OTHER_WORDS.get(found) or next(iter(close), None)
    hint = f" Did you mean {meant}?" if meant else ""
    return UserError(f"'{found}' is no verb.{hint} Verbs: {', '.join(VERBS)}.")
