"""What the machine decides where a setting is unset, and why."""

from dataclasses import dataclass
from typing import Literal

from . import hardware
from .contract import Facts
from .errors import UserError
from .hardware import Machine

LoaderName = Literal["resident", "mapped", "streaming"]


@dataclass(frozen=True)
class Decisions:
    """How a run's rows come to the device: by which loader, workers and seed. `why`: the loader."""

    loader: LoaderName
    workers: int
    prefetch: int
    seed: int
    why: str


def decide_loading(
    facts: Facts,
    machine: Machine,
    loader: LoaderName | None = None,
    workers: int | None = None,
    prefetch: int = 2,
    seed: int | None = None,
) -> Decisions:
    """Return how rows are loaded; what is not None was asked for.

    Raises UserError if rows in memory are to be streamed.
    """
    workers = hardware.workers(machine, 1) if workers is None else workers
    why = "as configured"
    if loader == "streaming" and facts.nbytes is not None:
        raise UserError(f"data.loader is streaming, but {facts.name} has no files: leave it unset.")
    if loader is None:
        loader, why = "streaming", f"read by {workers} worker{'' if workers == 1 else 's'}"
        if facts.nbytes is not None:
            loader, why = "mapped", "too large for the device: kept in the host's memory"
            if hardware.fits_on_device(machine, facts.nbytes):
                loader, why = "resident", "kept in the device's memory"
    return Decisions(loader, workers, prefetch, 0 if seed is None else seed, why)
