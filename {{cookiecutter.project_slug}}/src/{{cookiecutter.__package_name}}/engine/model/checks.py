"""Checks, before training, that a task fits its data and a checkpoint fits both."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Facts, Rows
from ..errors import UserError
from ..own_code import own_calls
from .size import Size, size_of, with_flops

NETWORK_PREFIX = "network."  # of the keys of a network's weights in a task's state dict
MOST_NAMED = 10  # classes of a run


def check_task(task: Any, rows: Rows, facts: Facts) -> Size:
    """Pass one row through the task, without changing its modes or the random number generator.

    Returns the size of the network. Raises UserError if torch can't compute the network on the row,
    or check() finds the outputs wrong. Other errors of the network's code are raised as they are.
    """
    name = task.hparams.get("network") or type(task.network).__name__
    try:
        with evaluating(task):
            batch = first_row(task, rows)
            outputs, flops = with_flops(lambda: task.forward(batch))
            problem = task.check(outputs, batch)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch's errors for wrong shapes
        calls = own_calls(error)
        if calls and calls[-1].is_own and not _raised_by_torch(error, calls[-1].source):
            raise
        own = [call for call in calls if call.is_own]
        where = f"{own[-1]}: " if own else ""
        where += _layer_of_torch(error, task.network)
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        shapes = " and ".join(f"{key} {shape}" for key, shape in facts.shapes.items())
        raise UserError(
            f"{where}{why}. The network '{name}' can't take the data's {shapes}. Change its code or"
            " the data, or choose another network (model.network)."
        ) from error
    if problem:
        raise UserError(f"The network '{name}' {problem}")
    return size_of(task.network, flops, None if rows.lengths is None else int(rows.lengths[0]))


def check_built(name: str, network: Any) -> None:
    """Raise UserError if the function of that name in networks.py built no plain nn.Module."""
    if network is None:
        raise UserError(f"'{name}' in networks.py returns None: is `return` missing?")
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise UserError(
            f"'{name}' in networks.py returns a {type(network).__name__}: return the plain"
            " nn.Module, which torch.compile needs."
        )


@contextmanager
def evaluating(task: Any) -> Iterator[None]:
    """Set a task to eval mode; modes and the random number generator are restored at the end."""
    modes = [(module, module.training) for module in task.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            task.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


def first_row(task: Any, rows: Rows) -> Any:
    """Return a batch of one row, on the task's device."""
    device = next((p.device for p in task.parameters()), torch.device("cpu"))
    batch: Any = rows.take(torch.tensor([0]), None, None)
    return batch._make(part if part is None else part.to(device) for part in batch)


def _layer_of_torch(error: Exception, network: nn.Module) -> str:
    """Return "in NAME, LAYER: " if an error was raised in a layer of torch; "" in any other.

    Its call is in no line of the project's code if an nn.Sequential makes it.
    """
    names = {module: name for name, module in network.named_modules()}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    called = [frame.f_locals.get("self") for frame in frames]
    modules = [each for each in called if isinstance(each, nn.Module) and each in names]
    if not modules or not type(modules[-1]).__module__.startswith("torch.nn."):
        return ""
    text = repr(modules[-1]).partition("\n")[0].removesuffix("(")
    return f"in {names[modules[-1]]}, {text}: "


def _raised_by_torch(error: Exception, line: str) -> bool:
    """Return whether torch raised an error in a line of the network's code, not the line itself."""
    return isinstance(error, RuntimeError) and not line.startswith("raise ")


def read_saved(file: str | Path, setting: str, mmap: bool = False) -> Any:
    """Load a file that torch.save wrote. `setting` names it in the UserError if that fails."""
    if Path(file).is_dir():
        best = Path(file) / "checkpoints" / "best.ckpt"
        instead = f" The best weights of this run are {best}." if best.is_file() else ""
        raise UserError(f"{setting}: {file} is a folder; expected a file.{instead}")
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"{setting}: {file} can't be read: {error.strerror}.") from error
    except Exception as error:  # the unpickler raises exceptions of many types
        raise UserError(
            f"{setting}: {file} is damaged, or holds other objects than tensors. Expected a file of"
            " torch.save(network.state_dict(), file)."
        ) from error


def read_checkpoint(path: str, resuming: bool) -> dict[str, Any]:
    """Return a checkpoint's content.

    Raises UserError if this project did not write it or, if `resuming`, it holds weights only.
    """
    saved = read_saved(path, "--ckpt_path", mmap=True)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, Mapping) or not any(
        str(key).startswith(NETWORK_PREFIX) for key in state
    ):
        raise UserError(
            f"--ckpt_path {path} is not a checkpoint of this project. To start a new run from its"
            " weights: --model.pretrained PATH"
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
    """Raise UserError if a checkpoint does not fit the task that loads it.

    A resume loads the optimizer's state too: settings and layers must be the same, even layers
    without weights. An evaluation only needs the same weights and classes.
    """
    was = saved.get("hyper_parameters", {})  # missing if a task has no settings
    settings = [
        f"model.{name} is {was[name]} in it and {value} here"
        for name, value in task.hparams.items()
        if name in was and was[name] != value and name not in task.may_differ
    ]
    _check_classes(saved["classes"] or (), classes)
    weights = differing(saved["state_dict"], task.state_dict())
    layers = _differing_lines(saved.get("architecture") or saved["built"], str(task.network))
    if not resuming and not weights and not layers:
        settings = []
    if settings:
        raise UserError(
            f"The checkpoint does not fit: {summarize(settings)}. Use the run's settings"
            " (--run FOLDER loads them), or start a new run: --model.pretrained PATH"
        )
    if weights or (layers and resuming):
        raise of_another_network(weights or layers)
    if layers:
        print(f"warning: the network has changed since the run: {summarize(layers)}.", flush=True)


def of_another_network(differences: list[str]) -> UserError:
    return UserError(
        f"The checkpoint is of another network: {summarize(differences)}. Restore networks.py (from"
        " the run's source.zip), or start a new run."
    )


def _check_classes(was: Sequence[str], here: Sequence[str]) -> None:
    """Raise UserError if the classes of a run and those of the data differ, or their order."""
    if not was or not here or list(was) == list(here):
        return
    new, gone = sorted(set(here) - set(was)), sorted(set(was) - set(here))
    found = [f"'{name}' is a class of the data, not of the run" for name in new]
    found += [f"'{name}' is a class of the run, not of the data" for name in gone]
    said = summarize(found or ["the classes are in another order"])
    names = ", ".join([*was[:MOST_NAMED], "…"] if len(was) > MOST_NAMED else was)
    raise UserError(
        f"The checkpoint does not fit: {said}. Use data with the run's classes ({names}), or start"
        " a new run from its weights: --model.pretrained PATH"
    )


def differing(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> list[str]:
    """Return the names and shapes in which a file's weights differ from a network's."""
    was, now = ({key: tuple(t.shape) for key, t in some.items()} for some in (there, here))
    return [
        f"{key} is {was.get(key, 'not')} in it and {now.get(key, 'not')} here"
        for key in now | was
        if was.get(key) != now.get(key)
    ]


def summarize(found: list[str]) -> str:
    """Return the first difference and the number of others."""
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _differing_lines(there: str, here: str) -> list[str]:
    pairs = zip_longest(there.splitlines(), here.splitlines(), fillvalue="nothing")
    return [f"{a.strip()} in it and {b.strip()} here" for a, b in pairs if a != b]
