"""Data sources: functions by name, called with the options of a configuration."""

import ctypes
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any

from ..contract import Splits
from ..errors import UserError, hint
from ..own_code import place_of
from .shared import once_per_host

KINDS = {str: "text, in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def load_source(
    sources: Mapping[str, Callable], name: str, options: dict[str, Any], **settings: Any
) -> Any:
    """Return what the source `name` returns; of several processes of a host, only one calls it.

    A source that has a parameter called like one of `settings` gets its value, unless it is None.

    Raises UserError if the source or an option is unknown, an option has another type than the
    source declares, or the source returns no Splits. Errors of the source's code are its own.
    """
    if name not in sources:
        raise UserError(f"data.source is '{name}', which is unknown. Known: {', '.join(sources)}.")
    source = sources[name]
    takes = inspect.signature(source)
    given = {key: value for key, value in settings.items() if value is not None}
    options |= {key: given[key] for key in given.keys() & takes.parameters.keys()}
    try:
        takes.bind(**options)
    except TypeError as error:
        unknown = next((key for key in options if key not in takes.parameters), None)
        cause = (
            f"it does not take {unknown}.{hint(unknown, takes.parameters)}"
            if unknown
            else f"{error}."
        )
        raise UserError(
            f"data.options do not fit the source '{name}': {cause}"
            f" It takes: {', '.join(takes.parameters) or 'none'}."
        ) from error
    for key, value in options.items():
        _check_type(key, value, takes.parameters.get(key))
    loaded = once_per_host(lambda: source(**options))
    _return_free_memory()
    if not isinstance(loaded, Splits):
        raise UserError(
            f"{place_of(source)} returned a {type(loaded).__name__}; expected splits, such as"
            " ImageSplits(train, val, test, classes=...)."
        )
    return loaded


def _check_type(key: str, value: Any, parameter: inspect.Parameter | None) -> None:
    """Raise UserError if a parameter is declared as text, a number or a bool, and this is not.

    One that is declared as such a type or None may be None, too.
    """
    kind: Any = parameter.annotation if parameter is not None else None
    if isinstance(kind, UnionType) and NoneType in kind.__args__ and len(kind.__args__) == 2:
        if value is None:
            return
        (kind,) = (each for each in kind.__args__ if each is not NoneType)
    if kind not in KINDS:
        return
    fits = isinstance(value, (int, float) if kind is float else kind)
    if isinstance(value, bool) != (kind is bool) or not fits:
        raise UserError(f"data.options.{key} is {value!r}; expected {KINDS[kind]}.")


def _return_free_memory() -> None:
    """Return what loading used and freed to the system. glibc would keep it, on each rank."""
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
