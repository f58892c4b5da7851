"""Run the rows of a workload in interleaved rounds: `compare.py NAME`, `make bench WORKLOAD=NAME`.

Every row is its own process. Rows that are already in the results file do not run again, so an
interrupted comparison continues where it stopped. The table and the plot are made from that file.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import report
from measure import HERE, run, this_machine
from workload import Workload
from workloads import WORKLOADS, workload

BUILD = HERE.parent / "build"


def main() -> int:
    asked = arguments()
    work = workload(asked.workload, asked.tiny, asked.devices, asked.strong)
    if asked.strong and (not asked.devices or work.batch % asked.devices):
        found = f"a batch of {work.batch} on {asked.devices or 'no number of'} devices"
        return refuse(f"--strong divides the batch among --devices N; found {found}.")
    if not work.rows:
        return refuse(f"--devices {asked.devices}: {asked.workload} has no row on several GPUs.")
    rows = asked.rows.split(",") if asked.rows else list(work.rows)
    if unknown := set(rows) - set(work.rows):
        known = ", ".join(work.rows)
        return refuse(f"{asked.workload} has no row {', '.join(unknown)}. Its rows: {known}.")
    if not any(asked.project.glob(f"src/*/engine/{work.PACKAGE}")):
        return refuse(
            f"--project {asked.project} is not a generated project for {work.PACKAGE}. make bench"
            " WORKLOAD=… generates one."
        )
    machine = this_machine(work)
    if work.device == "cuda" and "gpu" not in machine and asked.rounds:
        return refuse("There is no NVIDIA GPU here. This benchmark needs one.")
    asked.out.mkdir(parents=True, exist_ok=True)
    gpus = f"-{asked.devices}gpus" if asked.devices else ""
    gpus += "-strong" if asked.strong else ""
    file = asked.out / f"{asked.workload}{gpus}.jsonl"
    if asked.rounds:
        work.prepare(asked)
    all_ran = measure(asked, work, rows, file, machine)
    return finish(asked, file, not all_ran)


def measure(
    asked: argparse.Namespace, work: Workload, rows: list[str], file: Path, machine: dict[str, Any]
) -> bool:
    """Run the rows that `file` lacks, and add them to it. Return whether none of them failed."""
    end, all_ran = time.monotonic() + asked.seconds, True
    for round_ in range(asked.rounds):
        for row in rows:
            before = report.read(file)
            if any(r["row"] == row and (r["round"] == round_ or "left_out" in r) for r in before):
                continue
            took = [result["seconds"] for result in before if result["row"] == row]
            if time.monotonic() + max(took, default=work.expected) > end:
                label = work.label(row)
                print(f"No time left for {label}, round {round_ + 1}: run the command again.")
                return all_ran
            result = run(asked, work, row, round_)
            all_ran &= result is not None
            if result is not None:
                with file.open("a") as results:
                    results.write(json.dumps({**result, **machine}) + "\n")
    return all_ran


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=3, help="0: write only table and plot")
    parser.add_argument("--rows", help="only these rows, such as ours,limit")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no row that would end later"
    )
    parser.add_argument("--devices", type=int, help="compare one GPU with so many")
    parser.add_argument("--strong", action="store_true", help="divide the batch among the devices")
    parser.add_argument("--project", type=Path, default=BUILD / "my-project")
    parser.add_argument("--jpegs", type=Path, default=BUILD / "jpegs", help="made if missing")
    parser.add_argument("--out", type=Path, default=BUILD / "bench")
    parser.add_argument("--readme", type=Path, help="write the table between this file's markers")
    parser.add_argument(
        "--tiny", action="store_true", help="a small version for the CPU, for tests"
    )
    return parser.parse_args()


def refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def finish(asked: argparse.Namespace, file: Path, failed: bool) -> int:
    results = report.read(file)
    if not results:
        return refuse(f"{file} contains no row: nothing was measured, so there is no table.")
    table, into = report.table(results), asked.readme or file.with_suffix(".md")
    if asked.readme:
        report.insert(asked.readme, file.stem, table)
    else:
        into.write_text(table)
    report.plot(results, file.with_suffix(".png"))
    print(f"\n{table}\nresults: {file}\nplot: {file.with_suffix('.png')}\ntable: {into}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
