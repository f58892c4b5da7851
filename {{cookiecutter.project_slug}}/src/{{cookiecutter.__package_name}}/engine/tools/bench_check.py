"""Measure again what a bench.json holds: is training, as it is shipped, still as fast?

Exit status: 0 as fast, 1 slower than noise allows, 2 there is nothing to compare.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import decisions
from ..cli.project import Project
from ..errors import UserError
from ..hardware import this_machine
from ..paths import project_root
from .turns import Process

ALLOWED = 0.05  # of the speed, where the baseline's own turns do not differ by more
TURNS = 5


def slower_by(before: Sequence[float], after: Sequence[float]) -> float:
    """Return by which share of the speed the fastest turn is slower than the fastest one before.

    Whatever disturbs a turn makes it slower: the fastest are what can be compared.
    """
    return 1 - max(after) / max(before)


def allowed(before: Sequence[float]) -> float:
    """Return the share that is noise: the baseline's own, from its median to its fastest turn."""
    return max(ALLOWED, 1 - statistics.median(before) / max(before))


def read_baseline(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a bench.json, of this file or folder, and its shipped row.

    Raises UserError if it can't be read or that row does not count.
    """
    path = path / "bench.json" if path.is_dir() else path
    try:
        baseline = json.loads(path.read_text())
        rows = [row for row in baseline["rows"] if row["shipped"] and row["counts"]]
        return baseline, rows[0]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{path} is no bench.json whose row 'as shipped' counts. Measure one: make bench"
        ) from None


def check_same(baseline: dict[str, Any], device: str, settings: dict[str, Any] | None) -> None:
    """Raise UserError if the baseline was measured on another device or with other settings.

    Settings that one of the two does not know are passed over, and so are all that are None.
    """
    if baseline["device"] != device:
        raise UserError(
            f"The baseline was measured on {baseline['device']}, and this is {device}: speeds of"
            " different devices can't be compared. Measure one here: make bench"
        )
    # Baselines that count images trained at a rate of their own, which changes no speed.
    passed = () if "rows_an_epoch" in baseline else ("learning_rate", "schedule", "warmup")
    for part, values in (settings or {}).items():
        for name, value in values.items():
            if name in passed:
                continue
            was = baseline["settings"][part].get(name, value)
            if was != value:
                raise UserError(
                    f"{part}.{name} was {was} in the baseline and is {value} now: not the same"
                    f" work. Set it back in {baseline['config']}, or measure anew: make bench"
                )


def check(package: str, path: Path, seconds: float | None, slower: float) -> int:
    """Compare this machine's speed with a baseline's; return the exit status and say why."""
    baseline, row = read_baseline(path)
    device = decisions.device_name(machine := this_machine(), decisions.accelerator(machine).value)
    check_same(baseline, device, None)
    config = project_root() / baseline["config"]
    if not config.is_file():
        raise UserError(f"The baseline's recipe {baseline['config']} is not here any more.")
    flags, limit = [*baseline["arguments"], *row["flags"]], allowed(row["rates"])
    seconds = seconds or baseline.get("seconds", 1.0)  # turns as long as those
    with Process(package, config, flags, slower=slower) as process:
        check_same(baseline, device, process.ready().about["settings"])
        process.turn(seconds)  # compiles
        rates = [process.turn(seconds)["rate"] for _ in range(TURNS)]
        if slower_by(row["rates"], rates) > limit:  # a passing disturbance is over by now
            rates += [process.turn(seconds)["rate"] for _ in range(TURNS)]
    share = slower_by(row["rates"], rates)
    speeds = f"{max(rates):,.0f} rows/s, the baseline {max(row['rates']):,.0f}"
    if share > limit:
        print(f"slower by {share:.1%}: {speeds}; noise is {limit:.0%}", file=sys.stderr)
        return 1
    print(f"as fast as the baseline: {speeds} ({-share:+.1%}; noise is {limit:.0%})")
    return 0


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    return check(project.package, options.baseline, options.seconds, options.slower)
