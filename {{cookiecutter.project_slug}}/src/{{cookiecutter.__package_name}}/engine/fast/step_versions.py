"""Which version of a training step's code a batch needs.

A CUDA graph repeats the step that was recorded, whatever has changed in Python since then, such as
an epoch from which the loss has another term. torch.compile knows what the code depends on: its
guards. Here they are asked before each replay, without computing anything. Networks of installed
packages are known by their settings instead: installed_networks.py.
"""

import random
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from .installed_networks import InstalledNetworks, differ

CHANCE = "they draw Python's random numbers"


class StepVersions:
    """Numbers the versions of `step(task, batch)`: one for each set of values that it depends on.

    `problem` says why versions can't be told, if they can't: the step is not one graph to
    torch.compile, it depends on more than torch's limit of 8 sets of values, or on chance.
    """

    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        self.count, self.version, self.problem = 0, -1, ""
        self.step = step
        self.traced: Callable[[Any, Any], Any] | None = None  # None: not asked yet
        self.installed: Any = None
        self.numbers: dict[tuple[int, int], int] = {}  # of versions of the code and settings

    def of(self, task: Any, batch: Any) -> int | None:
        """Return the number of the version that a batch needs now, or None if it can't be told."""
        if self.problem:
            return None
        if self.installed is None:
            self.installed = InstalledNetworks(task)
            values = [value for module in task.modules() for value in vars(module).values()]
            if any(isinstance(value, random.Random) for value in values):
                self.problem = CHANCE
                return None
        try:
            return self._ask(task, batch)
        except Exception as error:  # torch.compile's own: the step has run on a batch before
            if self.installed.networks:  # one may be why
                self.installed.follow()
                return self.of(task, batch)
            self.problem = str(error.__cause__ or error).strip().partition("\n")[0]
            return None

    def _ask(self, task: Any, batch: Any) -> int | None:
        how: Any = {"backend": self._backend, "fullgraph": True, "dynamic": False}
        if self.traced is None:
            self.traced = torch.compile(_question(self.step), **how)
        settings, drawn = self.installed.settings(), random.getstate()
        before = [(vars(module), vars(module).copy()) for module in self.installed.followed]
        with self.installed.opaque():
            self.traced(task, batch)
        changed = [places for places in before if differ(*places)]
        for attributes, unchanged in changed:
            attributes.clear()
            attributes.update(unchanged)
        if changed:
            self.problem = "they change attributes of the task or its network"
            return None
        if random.getstate() != drawn:
            random.setstate(drawn)
            self.problem = CHANCE
            return None
        return self.numbers.setdefault((self.version, settings), len(self.numbers))

    def _backend(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        """Return what torch calls instead of a version of the code. It only notes its number."""
        version, (output,) = self.count, graph.graph.find_nodes(op="output")
        nothing = (None,) * len(output.args[0])
        self.count += 1

        def note(*_: Any) -> tuple[None, ...]:
            self.version = version
            return nothing

        return note


def _question(step: Callable[[Any, Any], Any]) -> FunctionType:
    """Return a function that torch.compile follows into the step, and that can't compute it.

    It has code of its own: torch limits the versions of each code, and reports all but the first.
    So what is asked counts apart from what is computed.
    """

    def question(task: Any, batch: Any) -> Any:
        if not torch.compiler.is_compiling():
            raise RuntimeError("torch.compile is turned off")
        return step(task, batch)

    code, closure = question.__code__.replace(), question.__closure__
    return FunctionType(code, globals(), question.__name__, None, closure)
