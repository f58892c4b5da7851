"""Does the network fit the data, and the checkpoint both? Said in one line, before training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import UserError

OURS = "network."  # the keys of ImageClassifier's weights start with it


def check_network(network: nn.Module, name: str, size: Sequence[int], num_classes: int) -> None:
    """Send one black image through the network, in eval mode, where its weights are.

    Leaves its weights, its modes and the random numbers as they are.

    Args:
        network: takes uint8 images (n, 3, height, width).
        name: what to call it.
        size: height and width of the data's images.
        num_classes: how many logits it has to return.

    Raises:
        UserError: the network can't take images of this size, or returns something else.
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


def check_checkpoint_file(path: str, settings: Mapping[str, Any], resuming: bool) -> None:
    """Look into the file that is given as --ckpt_path, before anything is built or recorded.

    Raises:
        UserError: it can't be read, is no checkpoint of this project, or has other settings.
    """
    if path in ("best", "last", "hpc") or "://" in path:  # Lightning's own words
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise UserError(f"--ckpt_path {path} can't be read: {error.strerror}.") from error
    except Exception as error:  # whatever the unpickler stumbles over
        raise UserError(f"--ckpt_path {path} is damaged, or no checkpoint at all.") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not any(str(key).startswith(OURS) for key in state):
        raise UserError(
            f"--ckpt_path {path} is no checkpoint of this project, as runs/*/*/checkpoints/*.ckpt"
            " are. To start a new run from the weights in it: --model.pretrained PATH"
        )
    check_checkpoint(content, settings, None, resuming)


def check_checkpoint(
    checkpoint: Mapping[str, Any],
    settings: Mapping[str, Any],
    classes: Sequence[str] | None,
    resuming: bool,
) -> None:
    """Compare a checkpoint with the network that is about to take its weights.

    Args:
        checkpoint: as ImageClassifier saved it.
        settings: those of the ImageClassifier that loads it; unset ones are passed over.
        classes: the names of the data's classes; None if there are no data.
        resuming: whether the optimizer's state is taken over too.

    Raises:
        UserError: they differ.
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
        pairs = [pair for pair in zip(known, classes, strict=True) if pair[0] != pair[1]]
        differences = [
            f"a class is '{was}' in it and '{now}' in these data" for was, now in pairs[:1]
        ]
    if differences:
        raise UserError(
            f"The checkpoint does not fit: {'; '.join(differences)}. Leave a run's settings as"
            " they were (--run FOLDER brings them), or start a new run: from the checkpoint's"
            " weights, where the network is the same, with --model.pretrained PATH"
        )
