"""A workload, row by row, in interleaved rounds: `compare.py NAME`, or `make bench WORKLOAD=NAME`.

Every row is a process of its own. What is already in the results file is not run again, so that a
comparison goes on where it was ended; table and plot are made from that file.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jpegs
import report
from measure import HERE, run, this_machine
from workloads import LABELS, WORKLOADS, workload

BUILD = HERE.parent / "build"
USUAL_SECONDS = 75.0  # of a row that has not run yet


def main() -> int:
    asked = arguments()
    work = workload(asked.workload, asked.tiny)
    rows = asked.rows.split(",") if asked.rows else list(work.rows)
    if unknown := set(rows) - set(work.rows):
        known = ", ".join(work.rows)
        return refuse(f"{asked.workload} has no row {', '.join(unknown)}. Its rows: {known}.")
    if not (asked.project / "configs").is_dir():
        return refuse(f"{asked.project} is no generated project. make bench bakes one.")
    machine = this_machine(work)
    if work.device == "cuda" and "gpu" not in machine and asked.rounds:
        return refuse("There is no NVIDIA GPU here, and one is what is measured.")
    end, failed = time.monotonic() + asked.seconds, False
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"{asked.workload}.jsonl"
    if work.folder and asked.rounds:
        jpegs.make(asked.jpegs, work.train, work.val)
    for round_ in range(asked.rounds):
        for row in rows:
            before = report.read(file)
            if any(r["row"] == row and (r["round"] == round_ or "left_out" in r) for r in before):
                continue
            took = [result["seconds"] for result in before if result["row"] == row]
            if time.monotonic() + (max(took) if took else USUAL_SECONDS) > end:
                print(f"The time is over before {LABELS[row]}, round {round_ + 1}: run it again.")
                return finish(asked, file, failed)
            result = run(asked, work, row, round_)
            failed |= result is None
            if result is not None:
                with file.open("a") as results:
                    results.write(json.dumps({**result, **machine}) + "\n")
    return finish(asked, file, failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=3, help="0: only table and plot")
    parser.add_argument("--rows", help="only these, such as ours,limit")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no row after")
    parser.add_argument("--project", type=Path, default=BUILD / "my-project")
    parser.add_argument("--jpegs", type=Path, default=BUILD / "jpegs", help="made where missing")
    parser.add_argument("--out", type=Path, default=BUILD / "bench")
    parser.add_argument("--readme", type=Path, help="put the table between this file's markers")
    parser.add_argument("--tiny", action="store_true", help="a CPU's version, for tests")
    return parser.parse_args()


def refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def finish(asked: argparse.Namespace, file: Path, failed: bool) -> int:
    results = report.read(file)
    if not results:
        return refuse(f"{file} holds no row: nothing was measured, so there is no table.")
    table, into = report.table(results), asked.readme or file.with_suffix(".md")
    if asked.readme:
        report.insert(asked.readme, asked.workload, table)
    else:
        into.write_text(table)
    report.plot(results, file.with_suffix(".png"))
    print(f"\n{table}\n{file}, .png beside it; the table: {into}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
