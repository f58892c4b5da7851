"""Observing a run: progress, speed, GPU memory, trackers, pictures and summaries."""

import logging
import warnings

import torch


def quiet_lightning() -> None:
    """Hide Lightning's log messages below warnings, and the warnings that don't apply here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in (
        ".*LightningCLI's args parameter.*",
        ".*exists and is not empty.*",  # the run's folder, when resuming
        ".*your dataloader is not resumable.*",  # the loaders follow the Trainer's progress
        ".*in eval mode at the start of training.*",  # frozen modules are
        ".*smaller than the logging interval.*",  # Preparation in task.py lowers the interval
        ".*recommended to use `self.log.*sync_dist=True.*",  # totals are summed over ranks already
        ".*treespec, LeafSpec.*",  # Lightning 2.6.6 on torch 2.11
        ".*loading a checkpoint outside the 'fit' stage.*",  # it holds the averaged weights
        ".*SWA is currently only supported every epoch.*",  # the schedule of steps ends there
    ):
        warnings.filterwarnings("ignore", expected)
    warnings.filterwarnings("ignore", module="PIL")  # of large images and broken metadata
    # Lightning 2.6.6 builds DDP on a side stream (its issue 21567), and torch warns about that.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
