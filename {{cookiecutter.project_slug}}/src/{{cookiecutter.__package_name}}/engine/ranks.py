"""This process's rank among the processes of one run, from the environment that torchrun sets."""

import functools
import os
from collections.abc import Callable
from typing import ParamSpec

Given = ParamSpec("Given")


def is_rank_zero() -> bool:
    """Return whether this process has rank 0, as a process without torchrun does."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_zero_only(function: Callable[Given, None]) -> Callable[Given, None]:
    """Return a function that calls `function` on rank 0 and does nothing on other ranks."""

    @functools.wraps(function)
    def on_rank_zero(*args: Given.args, **kwargs: Given.kwargs) -> None:
        if is_rank_zero():
            function(*args, **kwargs)

    return on_rank_zero
