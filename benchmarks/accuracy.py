"""Compare the accuracy of ours with a plain float32 script's, after the same epochs.

`accuracy.py [--seeds 5]` trains on handwritten digits and on a folder of synthetic JPEG files; in a
text project, `accuracy.py --tasks languages` trains on names in 20 languages. Both use the same
network, optimizer, schedule and rows; only the computation differs. The exit status is 1 if the
means differ by more than two standard errors or more than a percentage point.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import report
import torch
from compare import BUILD

TASKS = {"digits": "images", "folder": "images", "languages": "text"}
MOST = 0.01  # the largest difference between the means


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="runs of ours in parallel")
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=["digits", "folder"])
    parser.add_argument("--images", type=int, default=4000, help="training images in the folder")
    parser.add_argument("--project", type=Path, default=BUILD / "my-project")
    parser.add_argument("--jpegs", type=Path, default=BUILD / "few-jpegs")
    asked = parser.parse_args()
    if asked.seeds < 2 or asked.at_once < 1:
        found = f"--seeds {asked.seeds} --at-once {asked.at_once}"
        parser.error(f"{found}: expected at least 2 seeds, for a variance, and at least 1 at once")
    apart, tasks = False, {}
    for name in asked.tasks:
        script = import_module(f"{TASKS[name]}.plain")
        tasks[name] = script.task(name, asked), script.train
    print("| validation accuracy | plain float32 | ours | difference | 2 standard errors |")
    print("|---|--:|--:|--:|--:|")
    for name, (task, train_plainly) in tasks.items():
        epochs = asked.epochs or task.epochs
        plain = [train_plainly(task, epochs, seed) for seed in range(asked.seeds)]
        with ThreadPoolExecutor(asked.at_once) as pool:  # their time is not measured
            ours = list(pool.map(partial(train_ours, task, asked, epochs), range(asked.seeds)))
        difference, chance = report.apart(plain, ours)
        apart |= abs(difference) > min(chance, MOST)
        cells = [f"{mean(row):.2%} ± {stdev(row):.2%}" for row in (plain, ours)]
        cells += [f"{difference:+.2%}", f"± {chance:.2%}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return int(apart)


def train_ours(task: Any, asked: argparse.Namespace, epochs: int, seed: int) -> float:
    """Return the accuracy of a run of our command line: `task` has its recipe and its flags."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config={asked.project / 'configs' / task.recipe}", f"--seed_everything={seed}"]
        flags += [*task.flags, f"--trainer.max_epochs={epochs}"]
        if torch.cuda.is_available():  # as longer runs do automatically
            flags.append("--model.compile=true")
        settings = os.environ | {"RUN_FOLDER": f"{folder}/run"}
        paths = [str(asked.project.resolve() / "src"), os.environ.get("PYTHONPATH", "")]
        settings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "my_project", "fit", *flags]
        log = Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
        if process.wait():
            raise SystemExit(log.read_text())
        record = json.loads(Path(folder, "run", "run.json").read_text())
        return record["results"]["val/accuracy"]


if __name__ == "__main__":
    sys.exit(main())
