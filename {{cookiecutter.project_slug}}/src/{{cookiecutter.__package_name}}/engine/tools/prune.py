"""Delete old runs: list what would go, and with --yes delete it.

Of each recipe, the newest runs stay, the best one, those that have a name or a note, and those that
train. Trials of a few batches go, and runs that failed before their first checkpoint. Only folders
in runs/ are deleted: a link to another folder stays, and so does that folder.
"""

import argparse
import shutil
import time
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from ..cli.project import Project
from ..errors import UserError
from ..paths import project_root
from ..plurals import counted
from ..run.runs import Run, is_locked, is_trial, read_record, runs_in
from .runs import GB, by_recipe, chosen, state

QUIET = 3600.0  # seconds: a record that says "running" is believed if its run wrote since then
STAY = """Kept: each recipe's newest {} with a checkpoint, its best, runs with a name
or a note, and runs that train."""


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    if options.keep < 1:
        raise UserError(
            f"--keep is {options.keep}; expected the number of runs to keep: 1 or more."
        )
    root = project_root()
    runs = chosen(list(runs_in(root)), options.recipe)
    going = to_delete(root, runs, options.keep)
    for run in going:
        score = f"  {run.score}" if run.score and run.score.value is not None else ""
        name = f"runs/{run.recipe}/{run.folder.name}"
        print(f"  {run.size / GB:>8.3f} GB  {name}  {state(run)}{score}")
    total = sum(run.size for run in going) / GB
    if not going:
        print("Nothing to delete.", STAY.format(options.keep), sep="\n")
        return 0
    if not options.yes:
        print(f"\n{len(going)} of {len(runs)} runs would go and free {total:.3f} GB.")
        print(STAY.format(options.keep))
        print("To delete them, run the same command with YES=1 (make) or --yes (python).")
        return 0
    freed = [run.size for run in going if delete(root, run)]
    print(f"\n{counted(len(freed), 'run')} deleted, {sum(freed) / GB:.3f} GB freed.")
    return 0


def to_delete(root: Path, runs: list[Run], keep: int) -> list[Run]:
    """Return the runs that are neither a recipe's `keep` newest nor its best, and do not train.

    Runs that have a name or a note are not among them.
    A trial, or a run that failed before its first checkpoint, is not among the newest.
    """
    old = []
    for _, group in groupby(by_recipe(runs), lambda run: run.recipe):
        recipe = list(group)
        real = [run for run in recipe if not is_trial(run.record.get("config")) and is_saved(run)]
        stay = real[:keep] + best_of(real) + [run for run in real if run.label]
        old += [run for run in recipe if run not in stay]
    return [run for run in old if is_inside(root, run.folder) and not is_training(run.folder)]


def best_of(runs: list[Run]) -> list[Run]:
    """Return the best run by each metric that these runs have; of equal ones the newest."""
    best: dict[str, Run] = {}
    for run in runs:  # the newest first
        if run.score is not None and run.score.value is not None:
            known = best.setdefault(run.score.metric, run)
            if known.score is not None and run.score.rank > known.score.rank:
                best[run.score.metric] = run
    return list(best.values())


def is_saved(run: Run) -> bool:
    """Return whether a run has finished or has a checkpoint: not if it failed at its start."""
    return run.state == "finished" or any(run.folder.glob("checkpoints/*.ckpt"))


def is_inside(root: Path, folder: Path) -> bool:
    """Return whether a run's folder lies in runs/ itself, with no link on the way to it."""
    place = (root / "runs").resolve() / folder.parent.name / folder.name
    return folder.resolve() == place


def is_training(folder: Path) -> bool:
    """Return whether a process trains here or in a folder below, such as that of reproduce.

    A run on another computer may lock nothing that is seen here: it has written lately.
    """
    for path in folder.rglob("run.json"):
        if is_locked(path.parent):
            return True
        newest = max(file.stat().st_mtime for file in path.parent.iterdir())
        with suppress(UserError):  # a damaged record
            running = read_record(path).get("state") == "running"
            if running and time.time() - newest < QUIET:
                return True
    return False


def delete(root: Path, run: Run) -> bool:
    """Delete a run's folder unless it has started to train since; return whether it is gone."""
    if not is_inside(root, run.folder) or is_training(run.folder):
        print(f"runs/{run.recipe}/{run.folder.name} stays: it trains now.")
        return False
    shutil.rmtree(run.folder)
    return True
