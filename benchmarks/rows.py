"""Run one row that is not our command line: `rows.py WORKLOAD ROW OUT`.

Writes the same JSON to OUT as our command line's ClockCallback, with the time of the first step.
"""

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from limit import limit, limit_of_several
from loaders import timm_loading, torchvision_loading
from loop import Loop
from usual import lightning_project, script
from workloads import LABELS, LEFT_OUT, workload


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("row", choices=LABELS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jpegs", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--devices", type=int)
    asked = parser.parse_args()
    work = workload(asked.workload, asked.tiny, asked.devices)
    device = torch.device(work.device)
    torch.manual_seed(0)
    try:
        if asked.row == "usual-lightning":
            lightning_project(work, asked.out)
            return 0
        if asked.row == "several-limit":
            limit_of_several(work, asked.out)
            return 0
        loop = Loop(device, work.steps)
        if asked.row == "limit":
            limit(work, loop)
        elif asked.row in ("torchvision", "timm"):
            loading = {"torchvision": torchvision_loading, "timm": timm_loading}[asked.row]
            loading(work, asked.jpegs, loop)
        else:
            script(work, asked.jpegs, loop, compiled=asked.row == "usual-compiled")
    except ModuleNotFoundError as missing:
        print(f"{LABELS[asked.row]} is skipped: {missing.name} is not installed")
        return LEFT_OUT
    asked.out.write_text(json.dumps(loop.found(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    for worker in multiprocessing.active_children():
        worker.terminate()  # torch waits seconds for each worker at exit (pytorch issue 81794)
    os._exit(status)
