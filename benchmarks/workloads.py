"""The workloads by name."""

from dataclasses import replace

from images.workloads import IMAGE_WORKLOADS
from text.workloads import TEXT_WORKLOADS
from workload import Workload

WORKLOADS: dict[str, Workload] = {**IMAGE_WORKLOADS, **TEXT_WORKLOADS}


def workload(
    name: str, tiny: bool = False, devices: int | None = None, strong: bool = False
) -> Workload:
    """Return the workload with this name; if `tiny`, a version that a CPU trains in seconds.

    With `devices`, its rows compare one GPU with so many, each with the workload's batch; if
    `strong`, they divide this batch.
    """
    full = WORKLOADS[name]
    if devices is not None:
        title = f"{full.title} in all" if strong else f"{full.title} a GPU"
        full = replace(full, title=title, rows=full.OF_SEVERAL, devices=devices, strong=strong)
    if not tiny:
        return full
    return replace(full.tiny(), device="cpu", compiles=False, cores=None, workers=1)
