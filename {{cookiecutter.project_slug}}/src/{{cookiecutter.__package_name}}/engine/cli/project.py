"""A project: package, task and data, and the flags that the engine adds to task and data."""

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError
from .settings import Unreadable, settings_of

if TYPE_CHECKING:  # only a class that is loaded imports torch: help stays fast
    from ..contract import Find, Look, Read, Several
    from ..data.module import Data
    from ..task import Task


@dataclass(frozen=True)
class Project:
    """The arguments of `main()`. A string such as ".data:ImageData" is imported when needed."""

    package: str
    task: str | type
    data: str | type
    read: "str | Read | None" = None
    pictures: str | Callable | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    read_flags: Mapping[str, str] = field(default_factory=dict)
    several: "str | Several | None" = None
    inputs: "str | Find | None" = field(default=None, kw_only=True)
    look: "str | Look | None" = field(default=None, kw_only=True)

    def load(self, what: Any) -> Any:
        """Import and return what a string such as ".data:ImageData" names; return others as is.

        Raises UserError if the module has no such name.
        """
        if not isinstance(what, str):
            return what
        module, _, name = what.partition(":")
        with collecting_later():
            home = import_module(module, self.package)
        try:
            return getattr(home, name)
        except AttributeError as error:
            raise UserError(f"__main__.py names {what}, but {error}. Fix the name.") from error

    @cached_property
    def task_class(self) -> "type[Task]":
        """The project's task class with the engine's flags."""
        from ..task import check_members

        task = self.load(self.task)
        check_members(task)
        return task_with_flags(task)

    @cached_property
    def data_class(self) -> "type[Data]":
        """The project's data class with the engine's flags."""
        return data_with_flags(self.load(self.data))


@contextmanager
def collecting_later() -> Iterator[None]:
    """Pause garbage collection: it takes a second of an import, and imports free nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def task_with_flags(task: "type[Task]") -> "type[Task]":
    """Return a subclass of the task whose __init__ also takes the engine's flags.

    Raises UserError if a setting has the name of such a flag.
    """
    from ..fast.compile import CompileMode
    from ..task import TaskFlags

    _check_settings(task, TaskFlags)

    class TaskWithFlags(task):  # type: ignore[misc,valid-type]
        def __init__(
            self,
            compile: bool | CompileMode | None = None,
            channels_last: bool = True,
            activation_checkpointing: bool = False,
            ema: float | None = None,
            **settings: Any,
        ) -> None:
            """Build the task.

            Args:
                compile: true, false, a mode of torch.compile, step-graph (the whole step in one
                    CUDA graph) or eager-graph (the same, not compiled); unset: depends on the
                    hardware and the length of the run.
                channels_last: store 4-dimensional weights channels last, as images are; this is
                    faster on GPUs and CPUs.
                activation_checkpointing: recompute blocks in the backward pass, which takes less
                    memory and more time.
                ema: evaluate and save averages of the weights, which keep this share of themselves
                    in each step, such as 0.999; unset: the weights of the last step.
            """
            super().__init__(**settings)
            self.take_flags(TaskFlags(compile, channels_last, activation_checkpointing, ema))

    return _named_like(TaskWithFlags, task)


def data_with_flags(data: "type[Data]") -> "type[Data]":
    """Return a subclass of the data whose __init__ also takes the engine's flags.

    Raises UserError if a setting has the name of such a flag, or batch_size is missing.
    """
    from ..data.module import DataFlags, at_least
    from ..decisions import LoaderName

    _check_settings(data, DataFlags)
    if "batch_size" not in _settings(data):
        raise UserError(
            f"{data.__name__}.__init__ has no batch_size. Add it: see engine/contract.py."
        )

    class DataWithFlags(data):  # type: ignore[misc,valid-type]
        def __init__(
            self,
            batch_size: int | Literal["auto"] = default_batch_size(data),
            global_batch_size: int | None = None,
            loader: LoaderName | None = None,
            workers: int | None = None,
            prefetch: int = 2,
            seed: int | None = None,
            **settings: Any,
        ) -> None:
            """Read the data.

            Args:
                batch_size: training rows that one device computes at once: the micro-batch. auto:
                    the most that fit into GPU memory, which is measured before training.
                global_batch_size: training rows per optimizer step, over all devices; gradients
                    are accumulated over as many batches as needed. Unset: one batch per device.
                loader: resident keeps rows in device memory, mapped in host memory, streaming
                    reads them in each epoch. Unset: streaming for files, resident for data that
                    fit.
                workers: processes per device that read rows; unset: one per free core.
                prefetch: batches that each worker reads ahead.
                seed: of row order and augmentation; unset: the run's seed.
            """
            super().__init__(batch_size=batch_size, **settings)
            at_least(0, workers=workers)
            at_least(1, prefetch=prefetch)
            self.flags = DataFlags(global_batch_size, loader, workers, prefetch, seed)

    return _named_like(DataWithFlags, data)


def default_batch_size(data: type) -> int:
    """Return the default of a data class's setting, which a base class may have."""
    found = (inspect.signature(each).parameters.get("batch_size") for each in data.__mro__)
    return next(each.default for each in found if each and isinstance(each.default, int))


def _check_settings(own: type, flags: type) -> None:
    """Raise UserError if a setting of the task or data has the name of an engine flag."""
    for name in _settings(own):
        if name in flags.__dataclass_fields__:  # type: ignore[attr-defined]
            raise UserError(
                f"{own.__name__}.__init__ has a setting '{name}', also a flag of the engine:"
                " the setting would never get a value. Rename it."
            )


def _settings(own: type) -> set[str]:
    """Return the names of all settings, those that __init__ passes on as **kwargs too."""
    names = set(inspect.signature(own).parameters)
    with suppress(Unreadable, RecursionError):
        names |= {setting.name for setting in settings_of(own, own.__module__)}
    return names


def _named_like(made: type, original: type) -> Any:
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(made, name, getattr(original, name))
    return made
