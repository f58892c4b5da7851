"""Leave out what libraries import for nothing, until somebody uses it.

torchmetrics, which Lightning imports, imports scipy.signal and 500 modules with it, to see whether
it still has a function that another package calls. That is a quarter of the time of all imports.
"""

import importlib.util
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SIGNAL = "scipy.signal"


class Later(ModuleType):
    """Stands for scipy.signal until something of it is used; then it is imported."""

    hamming: Any = None  # what torchmetrics looks for, and would set

    def __init__(self) -> None:
        super().__init__(SIGNAL)
        self.__spec__ = ModuleSpec(SIGNAL, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by those who look at all modules
            raise AttributeError(name)
        if sys.modules.get(SIGNAL) is self:
            del sys.modules[SIGNAL]
        signal = import_module(SIGNAL)
        vars(signal).setdefault("hamming", signal.windows.hamming)
        return getattr(signal, name)


def import_later() -> None:
    """Let `import scipy.signal` import nothing yet."""
    if SIGNAL not in sys.modules and importlib.util.find_spec("scipy"):
        sys.modules[SIGNAL] = Later()
