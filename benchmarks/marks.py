"""When the parts of a run begin and end, as a callback of our command line.

It imports nothing but what the run has imported already, so that it costs no time.
"""

import json
import time
from pathlib import Path

import lightning as L
import torch

IMPORTED = time.time()  # the command line is parsed after all imports, and imports this file


class Marks(L.Callback):
    """Writes the time.time() of each part's beginning or end to a JSON file when fit ends.

    `imported` is when all libraries are; `built`, when data, network and callbacks are, and the
    Trainer starts; `prepared`, when the first epoch begins; `first_step`, its end. `epochs` has a
    list [begin, end of the last step, end of validation, rows trained] for each epoch; `trained` is
    the end of the last one, `left` that of fit.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.at: dict[str, float] = {"imported": IMPORTED}
        self.epochs: list[list[float]] = []

    def setup(self, trainer, pl_module, stage) -> None:
        self.at["built"] = time.time()

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.at.setdefault("prepared", now(pl_module))
        self.epochs.append([now(pl_module), 0.0, 0.0, 0.0])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.epochs[-1][3] += len(batch.row)
        if "first_step" not in self.at:
            self.at["first_step"] = now(pl_module)

    def on_validation_start(self, trainer, pl_module) -> None:
        self.epochs[-1][1] = now(pl_module)

    def on_validation_end(self, trainer, pl_module) -> None:
        self.epochs[-1][2] = now(pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        self.at["trained"] = now(pl_module)

    def teardown(self, trainer, pl_module, stage) -> None:
        self.at["left"] = time.time()
        self.path.write_text(json.dumps(self.at | {"epochs": self.epochs}))


def now(module: L.LightningModule) -> float:
    """Wait for all work queued on the device; return time.time()."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.time()
