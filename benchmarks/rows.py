"""Run one row that is not our command line: `rows.py WORKLOAD ROW OUT`.

Writes the same JSON to OUT as our command line's ClockCallback, with the time of the first step.
"""

import argparse
import multiprocessing
import os
import sys
from importlib import import_module
from pathlib import Path

import torch
from workload import LEFT_OUT
from workloads import workload


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("row")
    parser.add_argument("out", type=Path)
    parser.add_argument("--jpegs", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--devices", type=int)
    parser.add_argument("--strong", action="store_true")
    asked = parser.parse_args()
    work = workload(asked.workload, asked.tiny, asked.devices, asked.strong)
    torch.manual_seed(0)
    try:
        import_module(f"{work.PACKAGE}.rows").train(work, asked.row, asked)
    except ModuleNotFoundError as missing:
        print(f"{work.label(asked.row)} is skipped: {missing.name} is not installed")
        return LEFT_OUT
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    for worker in multiprocessing.active_children():
        worker.terminate()  # torch waits seconds for each worker at exit (pytorch issue 81794)
    os._exit(status)
