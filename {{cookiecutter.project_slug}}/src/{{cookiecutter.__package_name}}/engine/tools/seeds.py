"""Train one configuration with several seeds, one after the other: the mean and the spread."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from ..cli.arguments import take
from ..errors import UserError
from ..run.folder import RUN_FOLDER_VARIABLE, project_root, shown


def read_seeds(given: str, arguments: list[str]) -> list[int]:
    """Return the seeds that are given as "1 2 3", for these arguments of fit.

    Raises UserError if they are no different whole numbers, or the arguments choose seed or folder.
    """
    words = given.replace(",", " ").split()
    seeds = [int(word) for word in words if word.isdecimal()]
    if not words or len(set(seeds)) < len(words):
        raise UserError(f"The seeds are '{given}'; expected different numbers: SEEDS=\"1 2 3\".")
    if take(arguments, "--run")[1] is not None:
        raise UserError("Seeds are for new runs, not for one that goes on: leave out --run.")
    if os.environ.get(RUN_FOLDER_VARIABLE) or take(arguments, "--seed_everything")[1] is not None:
        raise UserError("Seeds choose folder and seed: leave out RUN_FOLDER and --seed_everything.")
    return seeds


def train_seeds(arguments: list[str], seeds: list[int], root: Path) -> int:
    """Train one run a seed, each in its own process; return the first bad exit status, or 0."""
    config = take(arguments, "--config", "-c")[1]
    recipe = Path(config).stem if config else "digits"
    together = root / "runs" / recipe / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    runs = {seed: together.with_name(f"{together.name}_seed-{seed}") for seed in seeds}
    finished: dict[int, Path] = {}
    for seed, folder in runs.items():
        command = [sys.executable, "-m", str(__package__).split(".")[0], "fit", *arguments]
        flags = ["--seed_everything", str(seed), "--data.seed", "null"]
        status = _run([*command, *flags], folder)
        if status:
            break
        finished[seed] = folder
    if finished:
        _summarize(finished, together.with_name(f"{together.name}_seeds.csv"))
    return status if status >= 0 else 128 - status


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
    for seed, value in results.items():
        said = "not measured" if value is None else f"{value:.2%}"
        print(f"  seed {seed:<10} {said:>8}  {shown(runs[seed])}")
    values = [value for value in results.values() if value is not None]
    if values:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(
            f"\nvalidation accuracy {statistics.mean(values):.2%} ± {spread:.2%}"
            f" (mean and standard deviation of {len(values)} seeds)\ntable: {shown(table)}\n"
        )


def main(arguments: list[str]) -> int:
    try:
        seeds = read_seeds(arguments[0] if arguments else "", arguments[1:])
        return train_seeds(arguments[1:], seeds, project_root())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
