"""What training needs around it: its record, its metrics, its progress and its pictures."""

import logging
import warnings


def quiet_lightning() -> None:
    """Keep what Lightning says of itself out of what a run says; its warnings stay, but three."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in (
        ".*LightningCLI's args parameter.*",
        ".*exists and is not empty.*",  # as it is when resuming
        ".*treespec, LeafSpec.*",  # Lightning 2.6.6 on torch 2.11
    ):
        warnings.filterwarnings("ignore", expected)
