"""Predict new files: a table with a row for each, by a run's best network.

The project's `inputs` finds the rows. Without an input, the test split is predicted, in the run's
folder.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..artifacts import artifacts_of
from ..cli.launch import launch, launched
from ..cli.project import Project
from ..cli.training import train
from ..cli.verbs import VERBS
from ..contract import Inputs
from ..data.module import EVAL_BATCH_SIZE, at_least
from ..data.rows import as_rows
from ..decisions import decide_layout
from ..errors import UserError, hint
from ..fast.settings import preserve_process_settings
from ..hardware import this_machine
from ..monitor import summary
from ..monitor.rate import Rate
from ..paths import project_root, shown
from ..ranks import is_launched, is_rank_zero
from ..run.folder import find_run
from ..run.interruption import Interrupted, Interruption
from ..run.numerics import prefer_determinism
from ..run.record import RunRecord, read_yaml
from .answers import Answers
from .predicting import Answer, predictions
from .prediction_file import STDOUT, Column, PredictionFile, check_out
from .trained import load_trained

FLAGS = {"trainer.devices", "trainer.accelerator"}
FLAGS |= {"data.eval_batch_size", "data.workers", "data.prefetch"}
KNOWN = ["--run", "--input", "--out", "--all", *(f"--{flag}" for flag in sorted(FLAGS))]
OPTIONS = "data.options."
DEFAULT_OUT = "predictions.csv"
ERROR = Column("error", str)
NAMED = 20  # rows without a prediction that are printed


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    if options.input is None:
        if options.all or options.out is not None:
            raise UserError("--out and --all need --input, the file or folder to predict.")
        return train(project, ["predict", *(["--run", options.run] if options.run else []), *flags])
    interruption = Interruption()
    with interruption.listening(), preserve_process_settings():
        return predict(project, options, flags, interruption)


def predict(
    project: Project, options: argparse.Namespace, flags: list[str], interruption: Interruption
) -> int:
    """Predict an input on one device or several; return the exit status.

    Raises UserError if the input, a flag or the run can't be used.
    """
    place, out = Path(options.input).expanduser(), options.out or DEFAULT_OUT
    if not place.exists():
        raise UserError(f"--input {options.input} does not exist; expected a file or a folder.")
    if project.inputs is None:
        raise UserError("This project can't read files. Pass inputs= to main() in __main__.py.")
    check_out(out)
    if out != STDOUT and Path(out).expanduser().resolve() == place.resolve():
        raise UserError(f"--out and --input are both {out}: choose another --out.")
    folder, machine = find_run(project_root(), options.run or "latest"), this_machine()
    config = with_flags(read_yaml(RunRecord(folder).newest_config().read_text()), flags)
    layout = decide_layout(config, machine, launched=launched())
    if layout.processes > 1 and not is_launched():
        again = ["predict", "--run", str(folder), "--input", str(place), "--out", out]
        again += [*(["--all"] if options.all else []), *flags]
        return launch(project.package, layout.devices.value, layout.threads.value, again, None)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(layout.threads.value)
    with ExitStack() as closing:
        file = closing.enter_context(PredictionFile(out)) if is_rank_zero() else None
        if out == STDOUT:  # it gets nothing but the table
            closing.enter_context(contextlib.redirect_stdout(sys.stderr))
        closing.enter_context(artifacts_of(folder))
        prefer_determinism(config["trainer"]["deterministic"])
        trained = load_trained(project, folder)
        inputs: Inputs = project.load(project.inputs)(place, trained.facts, config["data"])
        predicting = predictions(trained, inputs, config, machine, options.all)
        steps = closing.enter_context(predicting)
        if file is None:  # another rank
            for _ in steps:
                pass
            return 0
        for remark in inputs.remarks:
            print(f"note: {remark}", flush=True)
        failed = write_all(file, steps, inputs, trained.facts.unit, interruption)
        unit, said = trained.facts.unit, {"file": out} if out != STDOUT else {}
        summary.print_predicted(shown(place.absolute()), folder, said | {unit: f"{file.n:,}"})
    return report(failed, file.n, unit)


def with_flags(config: dict[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Return a run's configuration for a prediction on this machine, with flags.

    Raises UserError for an unknown flag, or a wrong number.
    """
    data = dict(config["data"])
    data |= {"loader": None, "global_batch_size": None, "options": dict(data.get("options") or {})}
    sections = {"data": data, "trainer": {"deterministic": config["trainer"].get("deterministic")}}
    words = iter(flags)
    for word in words:
        name, is_joined, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (name in FLAGS or name.startswith(OPTIONS)):
            raise UserError(
                f"{word} is unknown with --input.{hint(word, KNOWN)} Flags: --all,"
                f" {VERBS['predict'].others}."
            )
        given = read_yaml(value if is_joined else next(words, ""))
        if name.startswith(OPTIONS):
            data["options"][name.removeprefix(OPTIONS)] = given
        else:
            section, _, key = name.partition(".")
            sections[section][key] = given
    data["eval_batch_size"] = data.get("eval_batch_size") or EVAL_BATCH_SIZE
    for key, least in (("eval_batch_size", 1), ("prefetch", 1), ("workers", 0)):
        number = data.get(key)
        if not isinstance(number, int | None):
            raise UserError(f"data.{key} is {number!r}; expected a whole number.")
        at_least(least, **{key: number})
    return {**config, **sections}


def write_all(
    file: PredictionFile,
    steps: Iterator[tuple[Answers, list[Answer]]],
    inputs: Inputs,
    unit: str,
    interruption: Interruption,
) -> list[str]:
    """Write all rows and complete the file; return what to say of those without a prediction.

    After Ctrl-C, the rows so far are kept.
    """
    n, failed = as_rows(inputs.rows).n, list[str]()
    rate = Rate(n, "predicting", unit)
    rate.show(0)
    try:
        for answers, found in steps:
            with interruption.undisturbed():
                failed += write(file, answers, found, inputs.columns)
            rate.show(file.n)
    except Interrupted as end:
        if end.reason == "SIGINT" and file.n:
            with interruption.undisturbed():
                file.keep()
                print(f"\nThe table holds the first {file.n:,} of {n:,} {unit}.", flush=True)
        raise
    finally:
        rate.close()
    with interruption.undisturbed():
        file.keep()
    return failed


def write(
    file: PredictionFile,
    answers: Answers,
    found: list[Answer],
    columns: Mapping[str, Sequence[str | int]],
) -> list[str]:
    """Write the next rows; return what to say of those that have no prediction."""
    if file.table is None:
        own = [Column(name, type(values[0])) for name, values in columns.items()]
        file.begin([*own, *answers.columns, ERROR])
    empty, rows, failed = [None] * len(answers.columns), list[list[Any]](), list[str]()
    for i, answer in enumerate(found, file.n):
        begin = [values[i] for values in columns.values()]
        if isinstance(answer, str):
            name = f"{next(iter(columns))} " if isinstance(begin[0], int) else ""
            failed.append(f"{name}{begin[0]} {answer}")
            rows.append([*begin, *empty, answer])
        else:
            rows.append([*begin, *answer, None])
    file.write(rows)
    return failed


def report(failed: list[str], n: int, unit: str) -> int:
    """Print which rows have no prediction; return the exit status."""
    if not failed:
        return 0
    lines = [f"  {line}" for line in failed[:NAMED]] + ["  …"] * (len(failed) > NAMED)
    have = "has" if len(failed) == 1 else "have"
    which = f"{len(failed):,} of {n:,} {unit} {have} no prediction; the column error says why:"
    print("\n".join([which, *lines]), file=sys.stderr)
    return 3
