"""The rows of texts that are not our command line.

Each imports only what it needs: the time to the first step counts the imports.
"""

from argparse import Namespace

import torch
from loop import Loop
from several import on_several

from .workloads import TextWorkload


def train(work: TextWorkload, row: str, asked: Namespace) -> None:
    """Train a row, and write what its clock found to `asked.out`."""
    if row.startswith("trainer"):
        from .trainer import train_by_trainer

        train_by_trainer(work, asked.out, compiled=row == "trainer-compiled")
        return
    if work.whole_process:
        from .usual import fine_tune

        fine_tune(work, asked.out)
        return
    if row == "several-limit":
        from .limit import limit_of_each

        on_several(work, limit_of_each, asked.out)
        return
    loop = Loop(torch.device(work.device), work.steps)
    if row.startswith("limit"):
        from .limit import limit

        compiled, deterministic = "uncompiled" not in row, "deterministic" in row
        limit(work, loop, compiled=compiled and work.compiles, deterministic=deterministic)
    else:
        from .usual import train_eagerly

        train_eagerly(work, loop, best=row == "eager")
    loop.write(asked.out)
