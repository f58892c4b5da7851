"""Leave out what libraries import for nothing, until somebody uses it.

Lightning needs two classes of torchmetrics, which imports 280 files of its own then, and with them
torchvision, transformers and scipy's signal processing if they are installed. That is half of the
time that Lightning takes to be imported.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from logging import getLogger
from threading import RLock
from types import ModuleType
from typing import Any

TORCHMETRICS = "torchmetrics"
ALONE = {"Metric": "metric", "MetricCollection": "collections"}  # what Lightning needs, and where


class Later(ModuleType):
    """Stands for torchmetrics, and becomes it when something but ALONE is used."""

    _logger = getLogger(TORCHMETRICS)  # which its utilities log with

    __version__: str
    names: frozenset[str]  # that occur in its code
    loading = False

    def __getattr__(self, name: str) -> Any:
        if name in ALONE:
            import_module(f"{TORCHMETRICS}.utilities")  # first: each of the two imports the other
            return getattr(import_module(f"{TORCHMETRICS}.{ALONE[name]}"), name)
        # pickle and others that search all modules ask for names that it does not have.
        if name not in self.names:
            raise AttributeError(name)
        with LOCK:
            if type(self) is Later:
                if self.loading:  # it looks for a name in itself
                    raise AttributeError(name)
                self.loading = True
                self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                self.__class__ = ModuleType  # type: ignore[assignment]
        return getattr(self, name)


LOCK = RLock()


def import_later() -> None:
    """Let `import torchmetrics` import nothing yet."""
    spec = find_spec(TORCHMETRICS)
    if TORCHMETRICS in sys.modules or spec is None:
        return
    module = Later(TORCHMETRICS)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    module.__version__ = version(TORCHMETRICS)
    code = spec.loader.get_code(TORCHMETRICS)  # type: ignore[union-attr]
    module.names = frozenset(part for name in code.co_names for part in name.split("."))
    module.__package__, module.__path__ = TORCHMETRICS, spec.submodule_search_locations or []
    sys.modules[TORCHMETRICS] = module
