"""The template's engine: it trains, records, resumes, scores, serves and measures any task.

It imports nothing from the project around it, and an update replaces it whole. `contract.py` lists
what a task has to provide. The names below are for projects; each is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifacts import artifact as artifact
    from .cli.main import main as main
    from .contract import Batch as Batch
    from .contract import Best as Best
    from .contract import Facts as Facts
    from .contract import Inputs as Inputs
    from .contract import Read as Read
    from .contract import Rows as Rows
    from .contract import Splits as Splits
    from .contract import Uniforms as Uniforms
    from .data.module import Data as Data
    from .data.rows import TensorRows as TensorRows
    from .data.rows import digest as digest
    from .errors import UserError as UserError
    from .model.freeze import freeze as freeze
    from .model.freeze import unfreeze as unfreeze
    from .model.optimizers import build_optimizer as build_optimizer
    from .model.optimizers import build_schedule as build_schedule
    from .task import Task as Task

_HOMES = {
    "artifacts": ("artifact",),
    "cli.main": ("main",),
    "contract": ("Batch", "Best", "Facts", "Inputs", "Read", "Rows", "Splits", "Uniforms"),
    "data.module": ("Data",),
    "data.rows": ("TensorRows", "digest"),
    "errors": ("UserError",),
    "model.freeze": ("freeze", "unfreeze"),
    "model.optimizers": ("build_optimizer", "build_schedule"),
    "task": ("Task",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
