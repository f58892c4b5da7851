"""Networks of installed packages within a task, such as torchvision's ResNet or transformers' BERT.

Their code stays the same while a run trains, so what they compute changes only with their settings:
the attributes of their modules and classes. Comparing these takes less time than following their
code, which takes torch.compile some seconds for a deep network.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch._dynamo.decorators import nonstrict_trace

from ..own_code import ENGINE, is_installed

NONE = "None"  # stands for None, which torch.compile does not pass on
LEAST_MODULES = 10  # in a network that is worth it
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CONTENTS = ("_parameters", "_buffers", "_modules", *HOOKS)  # dicts of a module that change in place
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
DEPTH = 3  # of lists, dicts and configurations within an attribute that are compared


class InstalledNetworks:
    """The largest modules of a task whose code is all installed, and that no hook observes."""

    def __init__(self, task: nn.Module) -> None:
        self.task, self.states = task, list[_State]()
        self.networks = dict[nn.Module, Any]()  # and a call that torch.compile does not follow
        self.followed = list[nn.Module]()  # the modules whose code it follows
        self._find()

    def settings(self) -> int:
        """Return the number of the networks' settings as they are now: 0 for the first.

        An attribute that the network does not read is a setting too.
        """
        for number, state in enumerate(self.states):
            if state.holds():
                return number
        if self.networks:
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

    def follow(self) -> None:
        """Let torch.compile follow the code of all networks from now on."""
        self.networks, self.states = {}, []
        self.followed = list(self.task.modules())

    def _find(self) -> None:
        before = self.networks
        found = (each for child in self.task.children() for each in _largest(child))
        self.networks = {each: before.get(each) or _call_of(each) for each in found}
        inside = {part for network in self.networks for part in network.modules()}
        self.followed = [each for each in self.task.modules() if each not in inside]


class _State:
    """The settings of networks at some time."""

    def __init__(self, networks: Any) -> None:
        modules = [module for network in networks for module in network.modules()]
        self.now = [place for module in modules for place in _places(module)]
        self.now += [vars(kind) for kind in _classes(modules)]
        self.then = [place.copy() for place in self.now]
        self.weights = [weight for network in networks for weight in network.parameters()]
        self.trained = [weight.requires_grad for weight in self.weights]

    def holds(self) -> bool:
        try:
            same = self.now == self.then
        except (RuntimeError, ValueError):  # a tensor or an array is another one
            return False
        return same and self.trained == [weight.requires_grad for weight in self.weights]


def _places(module: nn.Module) -> Iterator[Any]:
    """Yield the dicts, lists and sets that hold a module's attributes."""
    attributes = vars(module)
    yield attributes
    yield from (attributes[name] for name in CONTENTS)
    for name in attributes.keys() - OF_EVERY_MODULE:
        yield from _within(attributes[name], DEPTH)


def _within(value: Any, depth: int) -> Iterator[Any]:
    """Yield the dicts, lists and sets in an attribute, such as transformers' configuration."""
    if isinstance(value, dict | list | set):
        place = value
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        place = vars(value)
    else:
        return
    yield place
    for part in place.values() if isinstance(place, dict) else place:
        if depth > 1:
            yield from _within(part, depth - 1)


def _largest(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest installed networks in a module."""
    modules = list(module.modules())
    if len(modules) < LEAST_MODULES:
        return
    if all(map(_is_settled, modules)) and all(map(_has_installed_code, _classes(modules))):
        yield module
        return
    for child in module.children():
        yield from _largest(child)


def _classes(modules: list[nn.Module]) -> set[type]:
    """Return the classes of modules, and those that they are derived from."""
    kinds = {kind for module in modules for kind in type(module).__mro__}
    return kinds - {object, nn.Module}


def _is_settled(module: nn.Module) -> bool:
    """Return whether no hook observes a module, and its attributes have installed code only."""
    attributes = vars(module)
    observed = "forward" in attributes or any(attributes[name] for name in HOOKS)
    return not observed and all(map(_is_installed, attributes.values()))


def _has_installed_code(kind: type) -> bool:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    known = kind.__module__ == "builtins" or (file is not None and _is_installed_file(file))
    return known and all(map(_is_installed, vars(kind).values()))


def _is_installed(value: Any) -> bool:
    """Return whether a value is no function, or one of an installed package."""
    while isinstance(value, functools.partial | MethodType | classmethod | staticmethod):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    if not isinstance(value, FunctionType):
        return True
    name = value.__code__.co_filename
    return name.startswith("<") or _is_installed_file(name)  # <: made by Python, as by dataclasses


@functools.cache
def _is_installed_file(name: str) -> bool:
    path = Path(name).resolve()
    return is_installed(path) or path.is_relative_to(ENGINE)


def _call_of(network: nn.Module) -> Any:
    """Return the network's forward as one operation for torch.compile.

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
    """Replace weights and buffers, some of which a call of the network changes.

    Raises RuntimeError if it changes other attributes: its settings don't say what it computes.
    """
    modules = [vars(module) for module in network.modules()]
    before = [attributes.copy() for attributes in modules]
    tensors = [
        (place, name, tensor)
        for attributes in modules
        for place in (attributes["_parameters"], attributes["_buffers"])
        for name, tensor in place.items()
        if tensor is not None
    ]
    for place, name, tensor in tensors:
        place[name] = torch.empty_like(tensor, requires_grad=tensor.requires_grad)
    compiling, torch.compiler._is_compiling_flag = torch.compiler._is_compiling_flag, True
    try:  # libraries that keep results for later don't keep those without content, as they compile
        yield
    finally:
        torch.compiler._is_compiling_flag = compiling
        for place, name, tensor in tensors:
            place[name] = tensor
        changed = [each for each in zip(modules, before, strict=True) if differ(*each)]
        for attributes, unchanged in changed:
            attributes.clear()
            attributes.update(unchanged)
    if changed:
        raise RuntimeError(f"{type(network).__name__} changes its own attributes")


def differ(attributes: dict[str, Any], before: dict[str, Any]) -> bool:
    """Return whether a module's attributes are not the same objects as before."""
    same = attributes.keys() == before.keys()
    return not same or any(attributes[name] is not value for name, value in before.items())
