"""The verbs of `python -m <package> VERB`, and the options of the verbs other than training.

Nothing heavy is imported here, so help and wrong options are reported before torch is imported.
"""

import argparse
import difflib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import UserError

WIDTH = 80  # columns of the help


class Option(NamedTuple):
    """The arguments of argparse's add_argument."""

    name: str
    arguments: dict[str, Any]


def option(name: str, help: str, **arguments: Any) -> Option:
    """Return an option whose help ends with its default, if it has one."""
    default = arguments.get("default")
    return Option(name, arguments | {"help": f"{help} ({default})" if default else help})


class Verb(NamedTuple):
    """`tool` is a module in tools/, None for training; `others` are flags that it passes on.

    A verb that is `quick` answers without importing torch.
    """

    group: str
    help: str
    tool: str | None = None
    options: tuple[Option, ...] = ()
    others: str = ""
    quick: bool = False


RUN = option("--run", "a run's folder or name, or latest", default="latest", metavar="FOLDER")
CONFIG = option("--config", "the recipe, a file in configs/", type=Path, metavar="FILE")
FITS = "those of fit"
RECIPE = option("--recipe", "only the runs of this recipe", metavar="NAME")
INTO = partial(option, "--into", type=Path, metavar="FOLDER")

VERBS = {
    "fit": Verb("Train", "train a recipe, or resume a run"),
    "seeds": Verb(
        "Train",
        "train with several seeds; print mean and standard deviation",
        "seeds",
        (
            option(
                "seeds", 'different whole numbers: "1 2 3"', nargs="?", default="", metavar="SEEDS"
            ),
        ),
        others=FITS,
    ),
    "reproduce": Verb(
        "Train",
        "retrain a run from its recorded source; compare every bit",
        "reproduce",
        (
            RUN,
            option(
                "--until", "compare losses up to this step, no weights", type=int, metavar="STEP"
            ),
            INTO(help="output folder; default: <run>/reproduce"),
        ),
        others=FITS,
    ),
    "look": Verb(
        "Train",
        "show training rows as the network sees them, before a run",
        "look",
        (
            CONFIG,
            option("--out", "the picture; default: runs/look.png", type=Path, metavar="FILE"),
        ),
        others=FITS,
    ),
    "validate": Verb("Evaluate", "score a run's best checkpoint on the validation split"),
    "test": Verb("Evaluate", "score a run's best checkpoint on the test split"),
    "predict": Verb(
        "Evaluate",
        "write a table of predictions for new files, or for the test split",
        "predict",
        (
            option("--run", "a run's folder, or latest; default: latest", metavar="FOLDER"),
            option("--input", "a file or folder; default: the test split", metavar="PATH"),
            option(
                "--out",
                "a .csv or .parquet file, or - (predictions.csv)",
                metavar="FILE",
            ),
            option("--all", "write the probabilities of all classes", action="store_true"),
        ),
        others="--trainer.devices, --trainer.accelerator, --data.workers, --data.prefetch,"
        " --data.eval_batch_size and --data.options.…; without --input, those of test",
    ),
    "serve": Verb(
        "Evaluate",
        "serve predictions of a run's best network over HTTP",
        "serve",
        (
            RUN,
            option(
                "--host",
                "address; 0.0.0.0: any machine can connect",
                default="127.0.0.1",
                metavar="NAME",
            ),
            option("--port", "0: any free port", type=int, default=8000, metavar="N"),
        ),
    ),
    "runs": Verb(
        "Runs",
        "list runs: name, note, state, best score, date and size",
        "runs",
        (
            RECIPE,
            option(
                "--sort",
                "within a recipe",
                choices=("date", "score", "size"),
                default="date",
            ),
            option("--csv", "print all columns as CSV", action="store_true"),
        ),
        quick=True,
    ),
    "compare": Verb(
        "Runs",
        "compare two runs: settings, code, data, environment and scores",
        "compare",
        (
            option("a", "a run's folder or name"),
            option("b", "another run's folder or name"),
            option("--diff", "print the lines of code that differ", action="store_true"),
        ),
        quick=True,
    ),
    "prune": Verb(
        "Runs",
        "list old runs and their size; with --yes delete them",
        "prune",
        (
            option("--keep", "newest runs of each recipe", type=int, default=5, metavar="N"),
            RECIPE,
            option("--yes", "delete them", action="store_true"),
        ),
        quick=True,
    ),
    "bench": Verb(
        "Measure",
        "measure what AMP, compile, CUDA graphs and the loader gain",
        "bench",
        (
            CONFIG,
            option("--seconds", "per trial; default: 1.5, on a CPU 1", type=float, metavar="S"),
            option("--rounds", "trials per row", type=int, default=3, metavar="N"),
            option(
                "--devices", "measure what so many devices gain", type=int, default=1, metavar="N"
            ),
            option("--all-modes", "measure two more compile modes (slow)", action="store_true"),
            INTO(help="output folder; default: runs/bench/<time>"),
        ),
        others=FITS,
    ),
    "tune": Verb(
        "Measure",
        "choose batch size and loader settings by measurement",
        "tune",
        (
            CONFIG,
            option("--seconds", "per measurement", type=float, default=2.0, metavar="S"),
            INTO(help="output folder; default: runs/tune/<time>"),
        ),
        others=FITS,
    ),
    "bench-check": Verb(
        "Measure",
        "fail if training is slower than in a bench.json",
        "bench_check",
        (
            option("baseline", "a bench.json or its folder", type=Path),
            option("--seconds", "per trial; default: as in the baseline", type=float, metavar="S"),
            option(
                "--slower",
                "slow down by this share, to test the check",
                type=float,
                default=0.0,
                metavar="X",
            ),
        ),
    ),
    "lock": Verb(
        "Environment",
        "update the lock files from pyproject.toml",
        "lock",
        others="those of `uv pip compile`, such as --upgrade",
    ),
    "bundle": Verb(
        "Environment",
        "write a folder that installs the project without network",
        "bundle",
        (
            option(
                "--folder",
                "output folder",
                type=Path,
                default=Path("dist/bundle"),
                metavar="FOLDER",
            ),
            option("--image", "image to save with the wheels", metavar="NAME"),
            option("--no-image", "save only the wheels", action="store_true"),
        ),
    ),
    "update": Verb(
        "Environment",
        "merge a newer template into this project, replace the engine",
        "update",
        (option("--checkout", "tag, branch or commit; default: newest", metavar="REF"),),
    ),
}
# Common names for a verb, such as make's. For other words the closest verb is suggested.
OTHER_WORDS = {"train": "fit", "resume": "fit", "evaluate": "test", "eval": "test"}


LACKING = re.compile(r"the following arguments are required: (.+)")
WRONG_VALUE = re.compile(r"argument (\S+): invalid (\w+) value: (.+)")


class OptionParser(argparse.ArgumentParser):
    """argparse's parser. It reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        if wrong := WRONG_VALUE.fullmatch(message):
            kind = {"int": "a whole number", "float": "a number"}.get(wrong[2], f"a {wrong[2]}")
            message = f"{wrong[1]} is {wrong[3]}; expected {kind}"
        if lacking := LACKING.fullmatch(message):
            helps = {action.dest: action.help for action in self._actions}
            names = lacking[1].split(", ")
            message = f"expected also {', '.join(f'{name}, {helps[name]}' for name in names)}"
        raise UserError(f"{message}. All options: {self.prog} --help")


def program(package: str, verb: str) -> str:
    return f"python -m {package} {verb}"


def parser_of(name: str, package: str, of_read: Mapping[str, str]) -> OptionParser:
    """Return the parser of a verb other than training.

    `of_read` are the flags that the project adds to serve, and their help.
    """
    verb = VERBS[name]
    parser = OptionParser(
        prog=program(package, name),
        description=f"{verb.help[0].upper()}{verb.help[1:]}.",
        epilog=f"Other flags are {verb.others}." if verb.others else None,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=WIDTH),
        allow_abbrev=False,
    )
    for name_or_flag, arguments in verb.options:
        parser.add_argument(name_or_flag, **arguments)
    for flag, help in of_read.items() if name == "serve" else ():
        parser.add_argument(f"--{flag}", help=help, action="store_true")
    return parser


def parse(
    name: str, package: str, arguments: list[str], of_read: Mapping[str, str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return a verb's options, and the flags that it passes on. Training passes on all flags.

    `of_read` are the flags that the project adds to serve.

    Raises UserError for an unknown verb or option.
    """
    if name not in VERBS:
        raise _unknown(name)
    if VERBS[name].tool is None:
        return argparse.Namespace(), ["--help" if a == "--help-all" else a for a in arguments]
    parser = parser_of(name, package, of_read)
    if VERBS[name].others:
        return parser.parse_known_args(arguments)
    return parser.parse_args(arguments), []


def _unknown(found: str) -> UserError:
    """Return the error for a first word that is not a verb."""
    close = difflib.get_close_matches(found, VERBS, n=1)
    meant = OTHER_WORDS.get(found) or next(iter(close), None)
    hint = f" Did you mean {meant}?" if meant else ""
    return UserError(f"unknown verb '{found}'.{hint} Verbs: {', '.join(VERBS)}.")
