"""Which of the processes that train together this one is: torchrun says it."""

import functools
import os
from collections.abc import Callable
from typing import ParamSpec

Given = ParamSpec("Given")


def is_rank_zero() -> bool:
    """Return whether this is the first of the processes that train together, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_zero_only(function: Callable[Given, None]) -> Callable[Given, None]:
    """Return a function that does the same on rank 0, and nothing on the others."""

    @functools.wraps(function)
    def on_rank_zero(*args: Given.args, **kwargs: Given.kwargs) -> None:
        if is_rank_zero():
            function(*args, **kwargs)

    return on_rank_zero
