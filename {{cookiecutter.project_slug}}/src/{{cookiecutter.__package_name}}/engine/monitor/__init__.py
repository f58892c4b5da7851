"""What is seen and said of a run: progress, speed, memory, trackers, pictures, its faults."""

import logging
import warnings

import torch


def quiet_lightning() -> None:
    """Keep what Lightning says of itself out of what a run says; its warnings stay, but seven."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in (
        ".*LightningCLI's args parameter.*",
        ".*exists and is not empty.*",  # as it is when resuming
        ".*your dataloader is not resumable.*",  # it goes by the Trainer's progress
        ".*in eval mode at the start of training.*",  # as a frozen backbone is
        ".*smaller than the logging interval.*",  # it is made as small: see Preparation in task.py
        ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged is summed over ranks
        ".*treespec, LeafSpec.*",  # Lightning 2.6.6 on torch 2.11
    ):
        warnings.filterwarnings("ignore", expected)
    warnings.filterwarnings("ignore", module="PIL")  # of large images and broken metadata
    # Lightning 2.6.6 builds DDP on a side stream (its issue 21567); torch warns of it.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
