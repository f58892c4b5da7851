"""Does the network fit the data, and the checkpoint both? Said in one line, before training."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

OURS = "network."  # the keys of ImageClassifier's weights start with it


def check_network(network: nn.Module, name: str, size: Sequence[int], num_classes: int) -> None:
    """Send one black image through the network; its modes and the random numbers stay as they are.

    Raises UserError, which calls the network `name`, if it can't take a uint8 image (1, 3, *size)
    or returns anything else than logits (1, num_classes).
    """
    modes = [(module, module.training) for module in network.modules()]
    device = next(network.parameters()).device
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = network.eval().forward(image)  # not network(image), which may be compiled
    except (RuntimeError, AssertionError, ValueError) as error:  # how torch's layers refuse a shape
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"The network '{name}' can't take the data's images of {size[0]} x {size[1]} pixels:"
            f" {why}. Make them larger, or choose or write another network (model.network)."
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


def read_saved(file: str | Path, setting: str, mmap: bool = False) -> Any:
    """Return what torch.save put into the file of a setting; UserError if it can't be read."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"{setting}: {file} can't be read: {error.strerror}.") from error
    except Exception as error:  # whatever the unpickler stumbles over
        raise UserError(
            f"{setting}: {file} is damaged, or more than torch.save(network.state_dict(), file)."
        ) from error


def read_checkpoint(path: str, resuming: bool) -> dict[str, Any]:
    """Return what is in a checkpoint; UserError if it is none of ours, or none to resume from."""
    saved = read_saved(path, "--ckpt_path", mmap=True)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, Mapping) or not any(str(key).startswith(OURS) for key in state):
        raise UserError(
            f"--ckpt_path {path} is no checkpoint of this project. To start a new run from the"
            " weights in it: --model.pretrained PATH"
        )
    if resuming and "optimizer_states" not in saved:
        raise UserError(
            f"--ckpt_path {path} holds weights only; a run goes on from its last.ckpt, with"
            " make resume. To start a new run from these weights: --model.pretrained PATH"
        )
    return saved


def check_checkpoint(
    saved: Mapping[str, Any], model: Any, classes: Sequence[str], resuming: bool
) -> None:
    """Raise UserError if a checkpoint does not fit the ImageClassifier that is to go on from it.

    `classes` are the names of its data's classes; `resuming` takes over the optimizer's state too,
    so that the network must not even be built otherwise, such as with another activation.
    """
    settings, was = model.hparams, saved["hyper_parameters"]
    compared = ["network", "num_classes", "small_images"]
    compared += ["optimizer", "freeze_backbone"] if resuming else []
    names = zip(saved["classes"] or (), classes, strict=False)
    apart = [
        f"model.{name} is {was[name]} in it and {settings[name]} here"
        for name in compared
        if was[name] != settings[name]
    ]
    apart += [f"a class is '{a}' in it and '{b}' in these data" for a, b in names if a != b]
    if apart:
        raise UserError(
            f"The checkpoint does not fit: {first(apart)}. Leave a run's settings as they were"
            " (--run FOLDER brings them), or start a new run: --model.pretrained PATH"
        )
    apart = differences(saved["state_dict"], model.state_dict())
    if resuming and not apart:
        lines = saved["built"].splitlines(), str(model.network).splitlines()
        pairs = zip_longest(*lines, fillvalue="nothing")
        apart = [f"{a.strip()} in it and {b.strip()} here" for a, b in pairs if a != b]
    if apart:
        raise UserError(
            f"The checkpoint is of another '{settings['network']}': {first(apart)}. Bring"
            " networks.py back as it was (the run's source.zip holds it), or start a new run."
        )


def differences(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> list[str]:
    """Return in which names and shapes the weights of a file differ from those of a network."""
    was, now = ({key: tuple(t.shape) for key, t in some.items()} for some in (there, here))
    return [
        f"{key} is {was.get(key, 'not')} in it and {now.get(key, 'not')} here"
        for key in now | was
        if was.get(key) != now.get(key)
    ]


def first(found: list[str]) -> str:
    """Return the first of some differences, and how many more there are."""
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
