"""List the runs in runs/: name, note, state, best score, date and size, from their records."""

import argparse
import csv
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from ..cli.project import Project
from ..cli.verbs import WIDTH
from ..errors import UserError
from ..paths import project_root
from ..run.runs import Run, is_trial, runs_in
from ..short_floats import short

GB = 1e9
COLUMN, SCORE = 28, 12  # characters of a run's name at most, and of its score
Key = Callable[[Run], Any]
# What runs are sorted by: the highest, or the newest, first.
KEYS: dict[str, Key] = {"date": lambda run: run.started, "size": lambda run: run.size}


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    found = chosen(list(runs_in(project_root())), options.recipe)
    if options.csv:
        write_csv(by_recipe(found, options.sort))
        return 0
    for recipe, runs in groupby(by_recipe(found, options.sort), lambda run: run.recipe):
        print("\n".join(table(recipe, list(runs))), end="\n\n")
    if not found:
        print("There are no runs yet. Start one: make train")
    return 0


def chosen(runs: list[Run], recipe: str | None) -> list[Run]:
    """Return the runs of a recipe, or all. Raises UserError if there are only others."""
    found = [run for run in runs if recipe in (None, "", run.recipe)]
    if runs and not found:
        known = ", ".join(dict.fromkeys(run.recipe for run in runs))
        raise UserError(f"No run of the recipe '{recipe}'. Recipes with runs: {known}.")
    return found


def by_recipe(runs: Iterable[Run], sort: str = "date") -> list[Run]:
    """Return the runs sorted; those of a recipe are together, that of the newest run first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return [
        run
        for each in groups.values()
        for run in sorted(each, key=KEYS.get(sort) or by_score(each), reverse=True)
    ]


def by_score(runs: Iterable[Run]) -> Key:
    """Return a key that is highest for the best run by the metric that most runs have.

    Runs without a score are last.
    """
    counts = metrics_of(runs)

    def key(run: Run) -> tuple[int, str, float]:
        if run.score is None or run.score.value is None:
            return 0, "", 0.0
        return counts[run.score.metric], run.score.metric, run.score.rank

    return key


def metrics_of(runs: Iterable[Run]) -> Counter[str]:
    """Return how many runs have a score by each metric."""
    return Counter(run.score.metric for run in runs if run.score and run.score.value is not None)


def table(recipe: str, runs: list[Run]) -> Iterator[str]:
    """Yield the lines of a recipe's runs, of at most 80 columns.

    The title of the scores is their usual metric; those of another say which.
    """
    usual = next((metric for metric, _ in metrics_of(runs).most_common(1)), "best")
    width = min(max(len(run.folder.name) for run in runs), COLUMN)
    yield f"{recipe}: {len(runs)} run{'' if len(runs) == 1 else 's'}"
    column = max(SCORE, min(len(usual), SCORE + COLUMN - width))
    title = usual[:column]
    yield f"  {'run':<{width}}  {'state':<11}  {title:>{column}}  {'started':<11}  {'GB':>7}"
    for run in runs:
        score = "-" if run.score is None else str(run.score)
        name = run.folder.name if len(run.folder.name) <= COLUMN else f"{run.folder.name[:27]}…"
        yield (
            f"  {name:<{width}}  {state(run):<11}  {score:>{column}}  {run.started:%m-%d %H:%M}"
            f"  {run.size / GB:>7.3f}"
        )
        is_other = run.score and run.score.value is not None and run.score.metric != usual
        of = f"({run.score.metric})" if run.score and is_other else ""
        failed = run.state in ("failed", "diverged")
        why = str(run.record.get("reason") or "").removeprefix("UserError: ") if failed else ""
        if said := " ".join(filter(None, [of, run.label, why])):
            yield f"    {textwrap.shorten(said, WIDTH - 4, placeholder=' …')}"


def state(run: Run) -> str:
    """Return a run's state for a table: a trial of a few batches is named as such."""
    return "trial" if is_trial(run.record.get("config")) else run.state


def write_csv(runs: Iterable[Run]) -> None:
    """Write every column of the runs to standard output."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["run", "recipe", "name", "note", "state", "metric", "best", "started", "seed", "gb"]
    )
    for run in runs:
        metric, best = (run.score.metric, run.score.value) if run.score else ("", None)
        record = run.record
        writer.writerow(
            [
                *(f"runs/{run.recipe}/{run.folder.name}", run.recipe),
                *(record.get("name", ""), record.get("note", ""), state(run)),
                *(metric, "" if best is None else short(best), record["started"]),
                *(record.get("seed", ""), f"{run.size / GB:.3f}"),
            ]
        )
