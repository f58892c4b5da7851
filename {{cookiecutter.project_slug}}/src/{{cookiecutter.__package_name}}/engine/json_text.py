"""JSON that any reader accepts: JSON has no numbers NaN and Infinity, so these become strings.

They are "NaN", "Infinity" and "-Infinity", the names of other formats too; `number` and Python's
float() read them.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def to_json(
    content: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None
) -> str:
    """Return content as JSON; `default` returns what is written for a type that JSON lacks."""
    return json.dumps(_named(content), indent=indent, default=default, allow_nan=False)


def number(value: float | str | None) -> float | None:
    """Return a number of a JSON file, which may be the name of one; None if it has no value."""
    return None if value is None else float(value)


def _named(content: Any) -> Any:
    """Return content in which names replace the floats that are not finite."""
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    if isinstance(content, Mapping):
        return {key: _named(value) for key, value in content.items()}
    return [_named(each) for each in content] if isinstance(content, list | tuple) else content
