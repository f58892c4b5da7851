"""The runs that test_resume.py kills: their data, their flags, and what each does when it dies.

An epoch has STEPS steps. Another task has a file of this name of its own.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image

from {{ cookiecutter.__package_name }}.augment import Augmentation

EPOCHS, STEPS = 4, 8
LENGTH = ("--trainer.max_epochs", str(EPOCHS), "--trainer.log_every_n_steps", "1")
DIGITS = ("--config", "configs/digits.yaml", "--data.batch_size", "128", "--data.crop_padding", "1")
TWICE = ("--trainer.devices", "2", "--trainer.accelerator", "cpu")
HALF_AN_EPOCH, EMA = "--trainer.val_check_interval=0.5", "--model.ema=0.9"
VARIANTS = {
    "resident": (1, DIGITS),
    "streaming, no worker": (1, ("--data.workers", "0", "--data.sampler", "balanced")),
    "streaming, 2 workers": (1, ("--data.workers", "2")),
    "accumulating, validating twice an epoch": (
        1,
        (*DIGITS, "--data.batch_size=64", "--data.global_batch_size=128", HALF_AN_EPOCH, EMA),
    ),
    "two processes": (2, (*DIGITS, "--data.batch_size", "64", *TWICE)),
    "two processes, streaming": (2, ("--data.workers", "1", "--data.batch_size", "4", *TWICE)),
}
SIMPLE, TWO_PROCESSES = "resident", "two processes"
EACH = ("step", "save", "validation", "last batch")


def augmentations() -> list[str]:
    """Return a flag for each augmentation, also for one that you add."""
    usual = {"rotation": 20, "randaugment": 9}
    kinds = {bool: True, int: 2, float: 0.4}
    known = [field for field in fields(Augmentation) if type(field.default) in kinds]
    return [f"--data.{f.name}={usual.get(f.name, kinds[type(f.default)])}" for f in known]


# Each of these changes what a step gets or keeps, in the run PLAIN.
PLAIN, SETTINGS = "resident files", ["--data.sampler=balanced", EMA, *augmentations()]
VARIANTS |= {name: (1, ("--data.loader=resident",)) for name in (PLAIN, *SETTINGS)}
KILLS = [(name, what) for name in list(VARIANTS)[:5] for what in EACH]
KILLS += [("resident", "from outside"), ("streaming, 2 workers", "from outside")]
KILLS += [("accumulating, validating twice an epoch", "save")]
KILLS += [("two processes", what) for what in ("from outside", "SIGTERM", "save")]
KILLS += [("two processes, streaming", what) for what in ("step", "last batch", "save")]
KILLS += [(setting, what) for setting in SETTINGS for what in (*EACH, "from outside")]


def write_data(folder: Path) -> None:
    """Write image files of two classes: 64 for training, so an epoch has 8 steps of 8."""
    draw = np.random.default_rng(0)
    for part, counts in (("train", (48, 16)), ("val", (10, 10))):
        for shade, name, count in zip((80, 170), ("dark", "light"), counts, strict=True):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.normal(shade, 60, (20, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


def arguments(name: str, data: Path) -> tuple[int, list[str]]:
    """Return the number of processes of a variant, and its command."""
    processes, flags = VARIANTS[name]
    if "streaming" in name:
        flags = ("--data.flip=true", *flags)
    if name in SETTINGS:
        flags = (*flags, name)
    if "streaming" in name or name in (PLAIN, *SETTINGS):
        flags = ("--data.source=folder", f"--data.options.path={data}", *flags)
        flags = ("--data.image_size", "16", "--data.batch_size", "8", *flags)
        flags = ("--model.network", "small_cnn", "--model.small_images", "true", *flags)
    return processes, ["fit", *flags, *LENGTH]


def on_gpus(devices: int, mode: str) -> list[str]:
    """Return a command for GPUs: compiled, in bfloat16, with CUDA graphs on one GPU."""
    flags = ["fit", *DIGITS, "--data.batch_size", str(128 // devices), "--model.compile", mode]
    return [*flags, *LENGTH, "--trainer.devices", str(devices), "--trainer.accelerator", "cuda"]
