"""Train a recipe with several seeds, one after another; report mean and standard deviation."""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from ..cli.arguments import take
from ..cli.project import Project
from ..contract import Best
from ..errors import UserError
from ..json_text import number
from ..monitor.summary import format_score
from ..paths import project_root, shown
from ..run.folder import RUN_FOLDER_VARIABLE, recipe_name
from ..run.interruption import passing_on_sigterm
from ..run.record import read_record
from ..short_floats import short


def read_seeds(given: str, arguments: list[str]) -> list[int]:
    """Return the seeds of a string such as "1 2 3".

    Raises UserError if they are not different whole numbers, or if `arguments`, those of fit,
    choose a seed, a run or a folder.
    """
    words = given.replace(",", " ").split()
    seeds = [int(word) for word in words if word.isdecimal()]
    if not words or len(set(seeds)) < len(words):
        raise UserError(f"SEEDS is '{given}'; expected different numbers: SEEDS=\"1 2 3\".")
    if take(arguments, "--run")[1] is not None:
        raise UserError("Several seeds need new runs, so none is resumed. Remove --run.")
    if os.environ.get(RUN_FOLDER_VARIABLE) or take(arguments, "--seed_everything")[1] is not None:
        raise UserError(
            "Each seed has its own run folder. Remove RUN_FOLDER and --seed_everything."
        )
    return seeds


def train_seeds(project: Project, arguments: list[str], seeds: list[int], root: Path) -> int:
    """Train one run per seed, each in its own process; return the first non-zero status, or 0."""
    config = take(arguments, "--config", "-c")[1]
    recipe = recipe_name(Path(config)) if config else project.package
    together = root / "runs" / recipe / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    runs = {seed: together.with_name(f"{together.name}_seed-{seed}") for seed in seeds}
    finished: dict[int, Path] = {}
    for seed, folder in runs.items():
        command = [sys.executable, "-m", project.package, "fit", *arguments]
        flags = ["--seed_everything", str(seed), "--data.seed", "null"]
        status = _run([*command, *flags], folder)
        if status:
            break
        finished[seed] = folder
    if finished:
        table = together.with_name(f"{together.name}_seeds.csv")
        _summarize(finished, table)
    return status if status >= 0 else 128 - status


def _run(command: list[str], folder: Path) -> int:
    """Run a command with RUN_FOLDER set, pass signals on to it, and return its exit status."""
    process = subprocess.Popen(command, env=os.environ | {RUN_FOLDER_VARIABLE: str(folder)})
    with passing_on_sigterm(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the run has received it too, and ends


def _summarize(runs: dict[int, Path], table: Path) -> None:
    """Print and save the best score of each seed, their mean and standard deviation."""
    records = {seed: read_record(folder / "run.json") for seed, folder in runs.items()}
    best = Best(**next(iter(records.values()))["best"])
    column = f"best {best.metric}"
    results = {seed: number(record["results"].get(column)) for seed, record in records.items()}
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", column, "run"])
        for seed, folder in runs.items():
            value = results[seed]
            writer.writerow([seed, value if value is None else short(value), folder.name])
    for seed, value in results.items():
        score = format_score(value, best)
        print(f"  seed {seed:<10} {score:>8}  {shown(runs[seed])}")
    values = [value for value in results.values() if value is not None]
    if values:
        found = f"{format_score(statistics.mean(values), best)} (1 seed)"
        if len(values) > 1:
            spread = format_score(statistics.stdev(values), best)
            mean = format_score(statistics.mean(values), best)
            found = f"{mean} ± {spread} (mean and standard deviation of {len(values)} seeds)"
        print(f"\n{column} {found}\ntable: {shown(table)}\n")


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    seeds = read_seeds(options.seeds, flags)
    return train_seeds(project, flags, seeds, project_root())
