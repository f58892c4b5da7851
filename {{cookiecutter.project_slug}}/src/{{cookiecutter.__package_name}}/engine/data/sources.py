"""Data sources: functions by name, called with the options of a configuration."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UserError
from .shared import once_per_host


def load_source(sources: Mapping[str, Callable], name: str, options: dict[str, Any]) -> Any:
    """Return what the source `name` returns; of several processes of a host, only one calls it.

    Raises UserError if the source or an option is unknown.
    """
    if name not in sources:
        raise UserError(f"data.source is '{name}', which is unknown. Known: {', '.join(sources)}.")
    source = sources[name]
    takes = inspect.signature(source)
    try:
        takes.bind(**options)
        return once_per_host(lambda: source(**options))
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise UserError(
            f"data.options do not fit the source '{name}': {error}."
            f" It takes: {', '.join(takes.parameters) or 'none'}."
        ) from error
