"""Check that training with default settings is still as fast as in a bench.json.

Exit status: 0 as fast, 1 slower by more than the noise, 2 no comparison is possible.
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
from .bench import is_valid
from .trials import Process

MIN_NOISE = 0.05  # of the speed; more if the baseline's own trials differ by more
TRIALS = 5


def slower_by(before: Sequence[float], after: Sequence[float]) -> float:
    """Return by which share of the speed the fastest trial is slower than the fastest one before.

    Disturbances only make a trial slower, so the fastest trials are compared.
    """
    return 1 - max(after) / max(before)


def allowed(before: Sequence[float]) -> float:
    """Return the noise as a share of the speed: from the baseline's median to its fastest trial."""
    return max(MIN_NOISE, 1 - statistics.median(before) / max(before))


def read_baseline(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of a bench.json, given as file or folder, and its row of default settings.

    Raises UserError if it can't be read or that row is not valid.
    """
    path = path / "bench.json" if path.is_dir() else path
    try:
        baseline = json.loads(path.read_text())
        rows = [row for row in baseline["rows"] if row["shipped"] and is_valid(row)]
        return baseline, rows[0]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{path} is not a bench.json with a valid row of default settings. Measure one with:"
            " make bench"
        ) from None


def check_same(baseline: dict[str, Any], device: str, settings: dict[str, Any] | None) -> None:
    """Raise UserError if the baseline was measured on another device or with other settings.

    Settings that only one of the two has are ignored. If `settings` is None, all are.
    """
    if baseline["device"] != device:
        raise UserError(
            f"The baseline was measured on {baseline['device']}, but this is {device}. Measure a"
            " baseline here with: make bench"
        )
    # Older baselines, without this key, trained at another learning rate; it affects no speed.
    ignored = () if "rows_an_epoch" in baseline else ("learning_rate", "schedule", "warmup")
    for part, values in (settings or {}).items():
        for name, value in values.items():
            if name in ignored:
                continue
            was = baseline["settings"][part].get(name, value)
            if was != value:
                raise UserError(
                    f"{part}.{name} was {was} in the baseline and is {value} now. Set it back"
                    f" in {baseline['config']}, or measure again with: make bench"
                )


def check(package: str, path: Path, seconds: float | None, slower: float) -> int:
    """Compare this machine's speed with a baseline, print the result, return the exit status."""
    baseline, row = read_baseline(path)
    device = decisions.device_name(machine := this_machine(), decisions.accelerator(machine).value)
    check_same(baseline, device, None)
    config = project_root() / baseline["config"]
    if not config.is_file():
        raise UserError(f"The baseline's recipe {config} does not exist. Restore it.")
    flags, limit = [*baseline["arguments"], *row["flags"]], allowed(row["rates"])
    seconds = seconds or baseline.get("seconds", 1.0)  # per trial, as in the baseline
    with Process(package, config, flags, slower=slower) as process:
        check_same(baseline, device, process.ready().about["settings"])
        process.trial(seconds)  # compiles
        rates = [process.trial(seconds)["rate"] for _ in range(TRIALS)]
        if slower_by(row["rates"], rates) > limit:  # try again, in case of a disturbance
            rates += [process.trial(seconds)["rate"] for _ in range(TRIALS)]
    share = slower_by(row["rates"], rates)
    speeds = f"{max(rates):,.0f} rows/s, the baseline {max(row['rates']):,.0f}"
    if share > limit:
        print(f"slower by {share:.1%}: {speeds}; noise is {limit:.0%}", file=sys.stderr)
        return 1
    print(f"as fast as the baseline: {speeds} ({-share:+.1%}; noise is {limit:.0%})")
    return 0


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    return check(project.package, options.baseline, options.seconds, options.slower)
