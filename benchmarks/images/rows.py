"""The rows of images that are not our command line."""

from argparse import Namespace

import torch
from loop import Loop
from several import on_several

from .limit import limit, limit_of_validation
from .loaders import timm_loading, torchvision_loading
from .usual import lightning_project, script
from .workloads import ImageWorkload


def train(work: ImageWorkload, row: str, asked: Namespace) -> None:
    """Train a row, and write what its clock found to `asked.out`."""
    if row == "usual-lightning":
        lightning_project(work, asked.out)
        return
    if row == "several-limit":
        on_several(work, limit, asked.out)
        return
    loop = Loop(torch.device(work.device), work.steps)
    if row == "limit":
        limit(work, loop)
    elif row == "limit-validation":
        limit_of_validation(work, loop)
    elif row in ("torchvision", "timm"):
        loading = {"torchvision": torchvision_loading, "timm": timm_loading}[row]
        loading(work, asked.jpegs, loop)
    else:
        script(work, asked.jpegs, loop, compiled=row == "usual-compiled")
    loop.write(asked.out)
