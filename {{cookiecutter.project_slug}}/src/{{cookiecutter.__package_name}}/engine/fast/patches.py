"""The engine's patches to Lightning during training, and the private names of Lightning it uses.

Each patch is a context manager, active from the start of training to the end of the fit. It is
undone after an exception too. No patch changes a bit of a result. To train without all of them, or
without some:

    ENGINE_PATCHES=off python -m PACKAGE fit ...
    ENGINE_PATCHES=-note_hooks_quickly,-log_without_waiting python -m PACKAGE fit ...

How much longer a step takes without each (`make bench WORKLOAD=patches` in the template: ResNet-18,
batch 128, H200s). The whole step is a CUDA graph, or it is compiled as `reduce-overhead`, which a
float16 run takes, or one with hooks within a step:

                            step-graph  reduce-overhead
    backward_in_this_thread       0.0%            12.9%
    note_hooks_quickly            0.0%             3.5%
    log_without_waiting           0.5%             0.2%
    agree_on_signals_once        23.2%            27.4%  on two GPUs; nothing on one

The first three were measured on one GPU: medians of 11 trials as a graph, and of 22 to 67 as
`reduce-overhead`. The last one, on two (`--devices 2`), was measured twice each. A patch that gains
less than 2% either way goes, but log_without_waiting stays: without it, a step waits for the GPU.

tests/engine/test_patches.py fails if Lightning changes a name or a signature that is used here.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import strategy
from lightning.pytorch.utilities.enums import GradClipAlgorithmType

from ..errors import UserError
from .pending import send

SWITCH = "ENGINE_PATCHES"
NOTHING = nullcontext()


@contextmanager
def note_hooks_quickly(trainer: Any) -> Iterator[None]:
    """Set the current hook's name without nn.Module.__setattr__, some 30 times per step.

    That name, `_current_fx_name`, is an attribute of the module, so torch checks whether it is a
    parameter. This patch can go when Lightning stores the name elsewhere.
    """
    kind: Any = type(trainer.lightning_module)
    own, usual = "__setattr__" in vars(kind), kind.__setattr__

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            vars(self)[name] = value
        else:
            usual(self, name, value)

    kind.__setattr__ = set_attribute
    try:
        yield
    finally:
        if own:
            kind.__setattr__ = usual
        else:
            del kind.__setattr__


@contextmanager
def backward_in_this_thread(trainer: Any) -> Iterator[None]:
    """Run the backward pass in the training thread: waking autograd's costs time.

    It uses no private name. This patch can go when torch does this by itself.
    """
    wrapped = trainer.strategy.model is not trainer.lightning_module  # as DDP does
    with torch.autograd.set_multithreading_enabled(wrapped):
        yield


@contextmanager
def agree_on_signals_once(trainer: Any) -> Iterator[None]:
    """Don't exchange signals between processes in every step, which waits for the GPU.

    RankConsensus exchanges them without waiting. On one device this patch changes nothing. It can
    go when Lightning's issue 21487 is fixed.
    """
    agreed = any(getattr(each, "agrees_on_signals", False) for each in trainer.callbacks)
    loop = trainer.fit_loop.epoch_loop
    with _set(loop, _broadcast_sigterm_tensor=lambda: None) if agreed else NOTHING:
        yield


@contextmanager
def log_without_waiting(trainer: Any) -> Iterator[None]:
    """Pass numbers to the loggers before their copy from the GPU is done, if all support that.

    Lightning waits for each number. This patch can go when Lightning passes tensors to loggers.
    """
    connector, takes = trainer._logger_connector, "takes_pending_numbers"
    log = type(connector).log_metrics
    ready = trainer.loggers and all(getattr(each, takes, False) for each in trainer.loggers)
    later = {"log_metrics": lambda metrics, step=None: log(connector, send(metrics), step)}
    with _set(connector, **later) if ready else NOTHING:
        yield


PATCHES: dict[str, Callable[[Any], AbstractContextManager[None]]] = {
    patch.__name__: patch
    for patch in (
        note_hooks_quickly,
        backward_in_this_thread,
        agree_on_signals_once,
        log_without_waiting,
    )
}


@contextmanager
def log_due_steps_only(trainer: Any) -> Iterator[None]:
    """When training stops, don't log a step that is not due: it has no new values.

    This patch has no switch, because it affects the rows of metrics.csv.
    """
    connector = trainer._logger_connector
    update, logs = type(connector).update_train_step_metrics, trainer.lightning_module.logs
    due = {"update_train_step_metrics": lambda: logs(trainer.global_step) and update(connector)}
    with _set(connector, **due):
        yield


@contextmanager
def left_on_device(trainer: Any, task: Any) -> Iterator[None]:
    """Let fit end without moving weights and optimizer to the CPU, for a process that ends soon.

    That takes over a second of a training of BERT-base. What reads them afterwards copies them.
    """
    end = trainer.strategy.teardown

    def teardown() -> None:
        with _set(strategy, _optimizers_to_device=lambda *_: None), _set(task, cpu=lambda: task):
            end()

    with _set(trainer.strategy, teardown=teardown):
        yield


class Patches(L.Callback):
    """Applies the patches that are switched on, from the start of training to the end of fit."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.apply(trainer, switched_on(os.environ.get(SWITCH, "")))

    def apply(self, trainer: Any, names: list[str]) -> None:
        """Apply these patches and no others; call it between two steps."""
        self.undo()
        self.stack.enter_context(log_due_steps_only(trainer))
        for name in names:
            self.stack.enter_context(PATCHES[name](trainer))

    def undo(self, *_: Any, **__: Any) -> None:
        self.stack.close()

    teardown = on_exception = undo


def switched_on(switch: str) -> list[str]:
    """Return the names of the patches that the switch leaves on: all for "", none for "off".

    Raises UserError if the switch names an unknown patch.
    """
    if switch == "off":
        return []
    off = {name.strip() for name in switch.split(",") if name.strip()}
    if unknown := off - {f"-{name}" for name in PATCHES}:
        raise UserError(
            f"{SWITCH} is {switch!r}: {', '.join(sorted(unknown))} is unknown. Set it to off, or to"
            f" some of these, separated by commas: {', '.join(f'-{name}' for name in PATCHES)}."
        )
    return [name for name in PATCHES if f"-{name}" not in off]


# Private names of Lightning that are used unchanged: these are no patches and have no switch.


def log_step_now(trainer: Any) -> None:
    """Log the last training step now; Lightning does so only after the callbacks' hooks."""
    trainer._logger_connector.update_train_step_metrics()


def trains_no_weights(trainer: Any) -> bool:
    """Return whether this epoch only computes the statistics of batch normalization."""
    return trainer.fit_loop._skip_backward


def weights_checkpoint(trainer: Any) -> dict[str, Any]:
    """Return the checkpoint that Trainer.save_checkpoint(weights_only=True) would write."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=True)


def follow_until_averaged(trainer: Any) -> None:
    """Copy the trained weights to averages of them that have had no update yet.

    WeightAveraging (Lightning 2.6.6) copies the weights before pretrained ones are loaded. Until
    its first update, which update_starting_at_step may delay to the end, it validates, saves and
    ends training with that copy.
    """
    task = trainer.lightning_module
    trained = [*task.parameters(), *task.buffers()]
    for callback in trainer.callbacks:
        average = callback._average_model if isinstance(callback, WeightAveraging) else None
        if average is not None and not average.n_averaged:
            copies = [*average.module.parameters(), *average.module.buffers()]
            for copy, tensor in zip(copies, trained, strict=True):
                copy.data.copy_(tensor.data)


def clip_gradients(trainer: Any, optimizer: Any, value: float, algorithm: Any) -> None:
    """Clip gradients, also for fused optimizers in float16, which Lightning 2.6.6 refuses.

    This function can go when Lightning's issue 21435 is fixed.
    """
    plugin = trainer.precision_plugin
    scaler = getattr(plugin, "scaler", None)
    if scaler and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)  # fused optimizers unscale in their step, after clipping
    Precision.clip_gradients(plugin, optimizer, value, GradClipAlgorithmType(algorithm or "norm"))


def training_progress(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's count of training batches: total and current, each a dict."""
    return checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]


def detects_anomalies(trainer: Any) -> bool:
    return trainer._detect_anomaly


def step_counts(trainer: Any) -> list[Any]:
    """Return where Lightning counts optimizer steps: by hand, and automatic."""
    loop = trainer.fit_loop.epoch_loop
    return [
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ]


def equalize_step_counts(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint's two counts of optimizer steps agree, so that the way to step may change.

    Earlier versions advanced only one of them.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    by_hand = loops.get("epoch_loop.manual_optimization.optim_step_progress")
    automatic = loops.get("epoch_loop.automatic_optimization.optim_progress")
    if by_hand and automatic:
        counts = [by_hand, automatic["optimizer"]["step"]]
        most = copy.deepcopy(max(counts, key=lambda count: count["total"]["completed"]))
        for count in counts:
            count |= most


def validation_progress(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's count of validation batches."""
    return checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]


@contextmanager
def _set(thing: Any, **attributes: Any) -> Iterator[None]:
    """Set attributes of an object, over those of its class; restore the object at exit."""
    own = vars(thing)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            own.pop(name, None)
        own.update(before)
