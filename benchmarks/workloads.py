"""The workloads by name."""

from dataclasses import replace

from images.workloads import IMAGE_WORKLOADS
from text.workloads import TEXT_WORKLOADS
from workload import Workload

WORKLOADS: dict[str, Workload] = {**IMAGE_WORKLOADS, **TEXT_WORKLOADS}


def workload(name: str, tiny: bool = False, devices: int | None = None) -> Workload:
    """Return the workload with this name; if `tiny`, a version that a CPU trains in seconds.

    With `devices`, its rows compare one GPU with so many.
    """
    full = WORKLOADS[name]
    if devices is not None:
        full = replace(full, title=f"{full.title} a GPU", rows=full.OF_SEVERAL, devices=devices)
    if not tiny:
        return full
    return replace(full.tiny(), device="cpu", compiles=False, cores=None, workers=1)
