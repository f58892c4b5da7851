"""One configuration trained with several seeds, one after the other: the mean and the spread."""

import csv
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from ..errors import UserError
from .folder import RUN_FOLDER_VARIABLE, shown


def take_seeds(arguments: list[str]) -> tuple[list[str], list[int]]:
    """Split `--seeds "1 2 3"` off the arguments of fit.

    Raises:
        UserError: they are no different whole numbers, or another command than fit is asked for.
    """
    arguments = [part for a in arguments for part in (a.split("=", 1) if "--seeds=" in a else [a])]
    if "--seeds" not in arguments:
        return arguments, []
    at = arguments.index("--seeds")
    given = " ".join(arguments[at + 1 : at + 2]).replace(",", " ").split()
    seeds = [int(seed) for seed in given if seed.isdecimal()]
    if not given or len(set(seeds)) < len(given):
        raise UserError(f"--seeds is '{' '.join(given)}'; expected different numbers: \"1 2 3\".")
    rest = arguments[:at] + arguments[at + 2 :]
    if rest[:1] != ["fit"] or "--run" in " ".join(rest):
        raise UserError("--seeds is for new runs: fit --config configs/digits.yaml --seeds ...")
    return rest, seeds


def train_seeds(arguments: list[str], seeds: list[int], root: Path) -> int:
    """Train one run a seed, each in its own process; return the first bad exit status, or 0."""
    configs = [
        Path(value) for flag, value in itertools.pairwise(arguments) if flag in ("-c", "--config")
    ]
    recipe = configs[-1].stem if configs else "digits"
    together = root / "runs" / recipe / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    runs = {seed: together.with_name(f"{together.name}_seed-{seed}") for seed in seeds}
    for seed, folder in runs.items():
        command = [sys.executable, "-m", __name__.split(".")[0], *arguments]
        status = _run([*command, "--seed_everything", str(seed)], folder)
        if status:
            return status
    _summarize(runs, together.with_name(f"{together.name}_seeds.csv"))
    return 0


def _run(command: list[str], folder: Path) -> int:
    """Run a command whose run goes to that folder; it gets the signals that end this process."""
    process = subprocess.Popen(command, env=os.environ | {RUN_FOLDER_VARIABLE: str(folder)})
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal has told the run too, and it ends by itself
    finally:
        signal.signal(signal.SIGTERM, before)


def _summarize(runs: dict[int, Path], table: Path) -> None:
    """Print and save each seed's best validation accuracy, their mean and standard deviation."""
    results = {
        seed: json.loads((folder / "run.json").read_text())["results"]["best val/accuracy"]
        for seed, folder in runs.items()
    }
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "best val/accuracy", "run"])
        writer.writerows([seed, results[seed], folder.name] for seed, folder in runs.items())
    for seed, folder in runs.items():
        value = results[seed]
        said = "not measured" if value is None else f"{value:.2%}"
        print(f"  seed {seed:<10} {said:>8}  {shown(folder)}")
    values = [value for value in results.values() if value is not None]
    if values:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(
            f"\nvalidation accuracy {statistics.mean(values):.2%} ± {spread:.2%}"
            f" (mean and standard deviation of {len(values)} seeds)\ntable: {shown(table)}\n"
        )
