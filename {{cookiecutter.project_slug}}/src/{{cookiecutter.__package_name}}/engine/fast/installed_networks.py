"""Networks of installed packages within a task, such as torchvision's ResNet or transformers' BERT.

Their code stays the same while a run trains, so what they compute changes only with their settings:
the attributes of their modules. Comparing these takes less time than following their code, which
takes torch.compile some seconds for a deep network.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo.decorators import nonstrict_trace

from ..own_code import ENGINE, is_installed

NONE = "None"
LEAST_MODULES = 10  # in a network that is worth it
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CONTENTS = ("_parameters", "_buffers", "_modules", *HOOKS)  # dicts of a module that change in place
OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class InstalledNetworks:
    """The largest modules of a task whose code is all installed, and that no hook observes."""

    def __init__(self, task: nn.Module) -> None:
        self.task, self.states = task, list[_State]()
        self.networks = dict[nn.Module, Any]()  # and a call that torch.compile does not follow
        self._find()

    def settings(self) -> int:
        """Return the number of the networks' settings as they are now: 0 for the first."""
        for number, state in enumerate(self.states):
            if state.holds():
                return number
        self._find()
        self.states.append(_State(self.networks))
        return len(self.states) - 1

    @contextmanager
    def opaque(self) -> Iterator[None]:
        """Let torch.compile take a call of these networks as one operation."""
        with ExitStack() as stack:
            for network, call in self.networks.items():
                network.forward = call
                stack.callback(delattr, network, "forward")
            yield

    def _find(self) -> None:
        before = self.networks
        self.networks = {each: before.get(each) or _call_of(each) for each in _largest(self.task)}


class _State:
    """The settings of networks at some time."""

    def __init__(self, networks: Any) -> None:
        modules = [module for network in networks for module in network.modules()]
        self.now = [place for module in modules for place in _places(module)]
        self.then = [place.copy() for place in self.now]
        self.weights = [weight for network in networks for weight in network.parameters()]
        self.trained = [weight.requires_grad for weight in self.weights]

    def holds(self) -> bool:
        try:
            same = self.now == self.then
        except RuntimeError:  # a tensor is another one
            return False
        return same and self.trained == [weight.requires_grad for weight in self.weights]


def _places(module: nn.Module) -> Iterator[Any]:
    """Yield the dicts, lists and sets that hold a module's attributes."""
    attributes = vars(module)
    yield attributes
    yield from (attributes[name] for name in CONTENTS)
    for name in attributes.keys() - OF_EVERY_MODULE:
        value = attributes[name]
        if isinstance(value, dict | list | set):
            yield value
        elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
            yield vars(value)  # such as transformers' configuration


def _largest(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest installed networks in a module."""
    modules = list(module.modules())
    if len(modules) < LEAST_MODULES:
        return
    if all(map(_is_settled, modules)):
        yield module
        return
    for child in module.children():
        yield from _largest(child)


def _is_settled(module: nn.Module) -> bool:
    """Return whether a module runs installed code only: no hook, no method of its own."""
    observed = "forward" in vars(module) or any(vars(module)[name] for name in HOOKS)
    file = getattr(sys.modules.get(type(module).__module__), "__file__", None)
    if observed or file is None:
        return False
    path = Path(file).resolve()
    return is_installed(path) or path.is_relative_to(ENGINE)


def _call_of(network: nn.Module) -> Any:
    """Return the network's forward, for torch.compile: one operation, which takes no None.

    torch.compile only asks for the shapes of what it returns, with tensors that have no content.
    """
    forward = network.forward

    @nonstrict_trace
    def run(*args: Any, **options: Any) -> Any:
        given = {name: None if _is(value) else value for name, value in options.items()}
        with _without_content(network):
            return forward(*(None if _is(value) else value for value in args), **given)

    def call(*args: Any, **options: Any) -> Any:
        given = {name: NONE if value is None else value for name, value in options.items()}
        return run(*[NONE if value is None else value for value in args], **given)

    return call


def _is(value: Any) -> bool:
    return isinstance(value, str) and value == NONE


@contextmanager
def _without_content(network: nn.Module) -> Iterator[None]:
    """Replace weights and buffers, some of which a call of the network changes."""
    tensors = [
        (tensors, name, tensor)
        for module in network.modules()
        for tensors in (vars(module)["_parameters"], vars(module)["_buffers"])
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    for place, name, tensor in tensors:
        place[name] = torch.empty_like(tensor, requires_grad=tensor.requires_grad)
    try:
        yield
    finally:
        for place, name, tensor in tensors:
            place[name] = tensor
