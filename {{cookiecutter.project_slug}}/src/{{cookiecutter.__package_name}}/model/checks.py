"""Does the network fit the data, and the checkpoint both? Said in one line, before training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError

OURS = "network."  # the keys of ImageClassifier's weights start with it


def check_network(network: nn.Module, name: str, size: Sequence[int], num_classes: int) -> None:
    """Send one black image through the network, in eval mode, where its weights are.

    Leaves its weights, its modes and the random numbers as they are. Raises UserError, which calls
    the network `name`, if it can't take a uint8 image (1, 3, *size) or returns anything else than
    logits (1, num_classes).
    """
    modes = [(module, module.training) for module in network.modules()]
    device = next(network.parameters()).device
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = network.eval().forward(image)  # not network(image), which may be compiled
    except (RuntimeError, AssertionError, ValueError) as error:  # how torch's layers refuse a shape
        why = str(error).strip().partition("\n")[0]
        raise UserError(
            f"The network '{name}' can't take the data's images of {size[0]} x {size[1]} pixels:"
            f" {why or type(error).__name__}. Make the data's images larger, choose another"
            " model.network, or mend this one in networks.py."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (1, num_classes):
        raise UserError(
            f"The network '{name}' returns {shape} for one image, and not {(1, num_classes)}: a"
            " logit for each class of the data. See its last layer in networks.py."
        )


def check_checkpoint_file(path: str, settings: Mapping[str, Any], resuming: bool) -> int:
    """Look into the file that is given as --ckpt_path, before anything is built or recorded.

    Returns the step at which it was saved. Raises UserError if it can't be read, is no checkpoint
    of this project, has other settings, or has nothing but weights to resume from.
    """
    if path in ("best", "last", "hpc") or "://" in path:  # Lightning's own words
        return 0
    content = read_saved(path, "--ckpt_path", mmap=True)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not any(str(key).startswith(OURS) for key in state):
        raise UserError(
            f"--ckpt_path {path} is no checkpoint of this project, as runs/*/*/checkpoints/*.ckpt"
            " are. To start a new run from the weights in it: --model.pretrained PATH"
        )
    if resuming and "optimizer_states" not in content:
        raise UserError(
            f"--ckpt_path {path} holds weights only; a run goes on from its last.ckpt, with"
            " make resume. To start a new run from these weights: --model.pretrained PATH"
        )
    check_checkpoint(content, settings, None, resuming)
    return int(content["global_step"])


def read_saved(file: str | Path, setting: str, mmap: bool = False) -> Any:
    """Return what torch.save put into the file of a setting; UserError if it can't be read."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"{setting}: {file} can't be read: {error.strerror}.") from error
    except Exception as error:  # whatever the unpickler stumbles over
        raise UserError(
            f"{setting}: {file} is damaged, or holds more than weights. Those of a network are"
            " saved with torch.save(network.state_dict(), file)."
        ) from error


def check_checkpoint(
    checkpoint: Mapping[str, Any],
    settings: Mapping[str, Any],
    classes: Sequence[str] | None,
    resuming: bool,
) -> None:
    """Raise UserError if a checkpoint does not fit the ImageClassifier that is to take its weights.

    `settings` are those of that ImageClassifier, unset ones are passed over, and `classes` the
    names of its data's classes, if it has data; `resuming` takes over the optimizer's state too.
    """
    saved = checkpoint.get("hyper_parameters", {})
    compared = ["network", "num_classes", "small_images"]
    compared += ["optimizer", "freeze_backbone"] if resuming else []
    differences = [
        f"model.{name} is {saved[name]} in it and {settings[name]} here"
        for name in compared
        if name in saved and settings.get(name) not in (None, saved[name])
    ]
    known = checkpoint.get("classes")
    if known and classes and not differences:
        differences = [
            f"a class is '{was}' in it and '{now}' in these data"
            for was, now in zip(known, classes, strict=True)
            if was != now
        ]
    if differences:
        raise UserError(
            f"The checkpoint does not fit: {'; '.join(differences[:3])}. Leave a run's settings as"
            " they were (--run FOLDER brings them), or start a new run: from the checkpoint's"
            " weights, where the network is the same, with --model.pretrained PATH"
        )
