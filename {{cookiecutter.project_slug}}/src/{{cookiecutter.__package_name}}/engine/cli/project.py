"""What a project is: package, task and data, and the flags that the engine adds to theirs."""

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:  # torch and Lightning are imported when a class is made: help does without
    from ..contract import Read
    from ..data.module import Data
    from ..task import Task


@dataclass(frozen=True)
class Project:
    """What `main()` was called with. A text such as ".data:ImageData" is imported when needed."""

    package: str
    task: str | type
    data: str | type
    read: "str | Read | None" = None
    pictures: str | Callable | None = None
    links: Mapping[str, str] = field(default_factory=dict)

    def load(self, what: Any) -> Any:
        """Return what a text such as ".data:ImageData" names, or whatever else it is."""
        if not isinstance(what, str):
            return what
        module, _, name = what.partition(":")
        try:
            with collecting_later():
                return getattr(import_module(module, self.package), name)
        except AttributeError as error:
            raise UserError(f"__main__.py names {what}, but {error}.") from error

    @cached_property
    def task_class(self) -> "type[Task]":
        """The project's task, with the engine's flags."""
        from ..task import check_members

        task = self.load(self.task)
        check_members(task)
        return task_with_flags(task)

    @cached_property
    def data_class(self) -> "type[Data]":
        """The project's data, with the engine's flags."""
        return data_with_flags(self.load(self.data))


@contextmanager
def collecting_later() -> Iterator[None]:
    """Import without garbage collection: what is imported stays, and looking takes a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def task_with_flags(task: "type[Task]") -> "type[Task]":
    """Return the same task, which the command line can give the engine's flags as well."""
    from ..fast.compile import CompileMode
    from ..task import TaskFlags

    _check_settings(task, TaskFlags)

    class TaskWithFlags(task):  # type: ignore[misc,valid-type]
        def __init__(
            self,
            compile: bool | CompileMode | None = None,
            channels_last: bool = True,
            activation_checkpointing: bool = False,
            **settings: Any,
        ) -> None:
            """Build the task.

            Args:
                compile: true, false, a mode of torch.compile, or step-graph for the whole step in
                    one CUDA graph; unset, decided by the hardware and by the length of the run.
                channels_last: keep 4-dimensional weights channels last in memory, as images are
                    and as GPUs and CPUs prefer.
                activation_checkpointing: recompute blocks in the backward pass: less memory, more
                    time.
            """
            super().__init__(**settings)
            self.take_flags(TaskFlags(compile, channels_last, activation_checkpointing))

    return _named_like(TaskWithFlags, task)


def data_with_flags(data: "type[Data]") -> "type[Data]":
    """Return the same data, which the command line can give the engine's flags as well."""
    from ..data.module import DataFlags, at_least
    from ..decisions import LoaderName

    _check_settings(data, DataFlags)
    if "batch_size" not in inspect.signature(data).parameters:
        raise UserError(f"{data.__name__}.__init__ has no batch_size: see engine/contract.py.")

    class DataWithFlags(data):  # type: ignore[misc,valid-type]
        def __init__(
            self,
            global_batch_size: int | None = None,
            loader: LoaderName | None = None,
            workers: int | None = None,
            prefetch: int = 2,
            seed: int | None = None,
            **settings: Any,
        ) -> None:
            """Read what the data are.

            Args:
                global_batch_size: training rows per optimizer step, over all devices; gradients
                    are accumulated over as many micro-batches as that takes. Unset, one on each
                    device.
                loader: resident keeps rows in the device's memory, mapped in the host's, streaming
                    reads them at each epoch. Unset: streaming for files, resident for what fits.
                workers: processes per device that read rows; unset, from the cores that are free.
                prefetch: batches that each worker reads ahead.
                seed: decides the order of the rows and their augmentation; unset, the run's seed.
            """
            super().__init__(**settings)
            at_least(0, workers=workers)
            at_least(1, prefetch=prefetch)
            self.flags = DataFlags(global_batch_size, loader, workers, prefetch, seed)

    return _named_like(DataWithFlags, data)


def _check_settings(own: type, flags: type) -> None:
    """Raise UserError if a setting of a task or of data has the name of one of the engine's."""
    for name in inspect.signature(own).parameters:
        if name in flags.__dataclass_fields__:  # type: ignore[attr-defined]
            raise UserError(
                f"{own.__name__}.__init__ has a setting '{name}', as the engine has: it would never"
                " be told its value. Give it another name."
            )


def _named_like(made: type, original: type) -> Any:
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(made, name, getattr(original, name))
    return made
