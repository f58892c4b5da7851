"""This process's rank among the processes of one run, and values that the processes share.

torchrun sets the rank in the environment, and its key-value store holds the values.
"""

import functools
import os
import pickle
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ParamSpec

Given = ParamSpec("Given")
# What torchrun sets for each process, beside variables with TORCHELASTIC in their names.
OF_A_RANK = {f"{of}RANK" for of in ("", "LOCAL_", "GROUP_", "ROLE_")}
OF_A_RANK |= {f"{of}WORLD_SIZE" for of in ("", "LOCAL_", "GROUP_", "ROLE_")}
OF_A_RANK |= {"ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"}


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


def is_launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is none of this launch's ranks."""
    return {k: v for k, v in environment.items() if k not in OF_A_RANK and "TORCHELASTIC" not in k}


def of_every_rank(name: str, value: Any) -> list[Any]:
    """Return the values that all ranks of the launch pass under this name, in rank order."""
    if not is_launched():
        return [value]
    shared, ranks = store(), range(int(os.environ["WORLD_SIZE"]))
    shared.set(f"{name}/{os.environ['RANK']}", pickle.dumps(value))
    return [pickle.loads(shared.get(f"{name}/{rank}")) for rank in ranks]


def of_rank_zero(name: str, make: Callable[[], Any]) -> Any:
    """Return, on every rank, the value that `make` returns on rank 0."""
    if not is_launched():
        return make()
    if is_rank_zero():
        store().set(name, pickle.dumps(value := make()))
        return value
    return pickle.loads(store().get(name))


@functools.cache
def store() -> Any:
    """Return the launch's key-value store, which works before there is a process group."""
    from torch.distributed import PrefixStore, rendezvous

    shared, _, _ = next(rendezvous("env://"))
    shared.set_timeout(timedelta(hours=1))  # rank 0 may first read its data
    return PrefixStore("engine", shared)
