"""Does the task fit the data, and the checkpoint both? Said in one line, before training."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contract import Facts, Rows
from ..errors import UserError

NETWORK_PREFIX = "network."  # the keys of a task's weights start with it


def check_task(task: Any, rows: Rows, facts: Facts) -> None:
    """Send one row through the task; its modes and the random numbers stay as they are.

    Raises UserError if the network can't take it, or the task says that its outputs are wrong.
    """
    modes = [(module, module.training) for module in task.modules()]
    device = next((p.device for p in task.parameters()), torch.device("cpu"))
    batch: Any = rows.take(torch.tensor([0]), None, None)
    batch = batch._make(part if part is None else part.to(device) for part in batch)
    name = task.hparams.get("network") or type(task.network).__name__
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            task.eval()
            outputs = task.forward(batch)
            problem = task.check(outputs, batch)
    except (RuntimeError, AssertionError, ValueError) as error:  # how torch's layers refuse a shape
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        shapes = " and ".join(f"{key} {shape}" for key, shape in facts.shapes.items())
        raise UserError(
            f"The network '{name}' can't take the data's {shapes}: {why}. Change the data, or"
            " choose or write another network (model.network)."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if problem:
        raise UserError(f"The network '{name}' {problem}")


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
    if not isinstance(state, Mapping) or not any(
        str(key).startswith(NETWORK_PREFIX) for key in state
    ):
        raise UserError(
            f"--ckpt_path {path} is no checkpoint of this project. To start a new run from the"
            " weights in it: --model.pretrained PATH"
        )
    if resuming and "optimizer_states" not in saved:
        raise UserError(
            f"--ckpt_path {path} holds weights only; a run resumes from its last.ckpt, with"
            " make resume. To start a new run from these weights: --model.pretrained PATH"
        )
    return saved


def check_checkpoint(
    saved: Mapping[str, Any], task: Any, classes: Sequence[str], resuming: bool
) -> None:
    """Raise UserError if a checkpoint does not fit the task that takes it over.

    A resume takes over the optimizer's state too, so that every setting has to be the same, and the
    network must not even have another activation. An evaluation needs the same weights.
    """
    was = saved.get("hyper_parameters", {})  # not there if a task has no settings
    settings = [
        f"model.{name} is {was[name]} in it and {value} here"
        for name, value in task.hparams.items()
        if name in was and was[name] != value and name not in task.may_differ
    ]
    names = zip(saved["classes"] or (), classes, strict=False)
    other_classes = [f"a class is '{a}' in it and '{b}' in these data" for a, b in names if a != b]
    weights = differing(saved["state_dict"], task.state_dict())
    layers = _differing_lines(saved.get("architecture") or saved["built"], str(task.network))
    if not resuming and not weights and not layers:
        settings = []
    if found := settings + other_classes:
        raise UserError(
            f"The checkpoint does not fit: {summarize(found)}. Leave a run's settings as they were"
            " (--run FOLDER brings them), or start a new run: --model.pretrained PATH"
        )
    if weights or (layers and resuming):
        raise UserError(
            f"The checkpoint is of another network: {summarize(weights or layers)}. Bring"
            " networks.py back as it was (the run's source.zip holds it), or start a new run."
        )
    if layers:
        print(f"warning: the network has changed since the run: {summarize(layers)}.", flush=True)


def differing(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> list[str]:
    """Return in which names and shapes the weights of a file differ from those of a network."""
    was, now = ({key: tuple(t.shape) for key, t in some.items()} for some in (there, here))
    return [
        f"{key} is {was.get(key, 'not')} in it and {now.get(key, 'not')} here"
        for key in now | was
        if was.get(key) != now.get(key)
    ]


def summarize(found: list[str]) -> str:
    """Return the first of some differences, and how many more there are."""
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _differing_lines(there: str, here: str) -> list[str]:
    pairs = zip_longest(there.splitlines(), here.splitlines(), fillvalue="nothing")
    return [f"{a.strip()} in it and {b.strip()} here" for a, b in pairs if a != b]
