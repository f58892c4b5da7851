"""A baseline: the Trainer of transformers at its best settings."""

import json
import tempfile
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  the Trainer needs it; rows.py skips the row if it is missing
import torch
from my_project.engine.monitor.clock import Clock
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from .usual import Text, bert, padded, texts
from .workloads import MOST_NORM, RATE, WEIGHT_DECAY, TextWorkload

EPOCHS = 4  # the first is not part of the figure


class Timing(TrainerCallback):
    """The bench's clock, and each epoch's mean loss."""

    def __init__(self, device: torch.device, batch: int) -> None:
        self.clock, self.batch = Clock(device), batch
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.step(self.batch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.end_epoch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


def train_by_trainer(work: TextWorkload, out: Path, compiled: bool) -> None:
    """bf16, TF32, fused AdamW, texts grouped by length, workers that stay; it logs each epoch."""
    on_gpu = work.device == "cuda"
    timing = Timing(torch.device(work.device), work.batch)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=work.batch,
            num_train_epochs=min(work.epochs, EPOCHS),
            learning_rate=RATE,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MOST_NORM,
            optim="adamw_torch_fused",
            bf16=on_gpu,
            tf32=on_gpu or None,
            use_cpu=not on_gpu,
            torch_compile=compiled and work.compiles,
            train_sampling_strategy="group_by_length",
            dataloader_num_workers=work.workers,
            dataloader_persistent_workers=True,
            dataloader_pin_memory=on_gpu,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            logging_strategy="epoch",
            logging_nan_inf_filter=False,  # it makes the host wait in each step
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(bert(work), arguments, named, texts(work, "train"), callbacks=[timing]).train()
    out.write_text(json.dumps(timing.clock.found(timing.losses), indent=2) + "\n")


def named(rows: list[Text]) -> dict[str, Tensor]:
    """Return a padded batch as the model's keyword arguments."""
    return dict(zip(("input_ids", "attention_mask", "labels"), padded(rows), strict=True))
