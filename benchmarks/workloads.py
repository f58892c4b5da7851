"""The workloads, and the rows of each."""

import os
from dataclasses import dataclass, replace

CLASSES = 10
LEFT_OUT = 3  # exit status of a row whose package is not installed
LABELS = {
    "usual-eager": "the usual script",
    "usual-compiled": "the usual script, torch.compile",
    "usual-lightning": "the usual Lightning project",
    "torchvision": "torchvision's loading, fast loop",
    "timm": "timm's loading, fast loop",
    "ours": "ours",
    "ours-step-graph": "ours, step graph",
    "ours-resident": "ours, images on the GPU",
    "limit": "the limit",
    "several": "ours, data-parallel on {devices}",
    "several-step-graph": "ours, data-parallel on {devices}, step graph",
    "several-ddp": "Lightning's ddp on {devices}",
    "several-limit": "the limit of {devices}",
}
OF_SEVERAL = ("ours", "limit", "several", "several-step-graph", "several-ddp", "several-limit")


@dataclass(frozen=True)
class Workload:
    """A network, its images, and the number of epochs that our command line trains.

    The usual script and Lightning project use `usual_batch`, all other rows use `batch`. The first
    of the `epochs` compiles and is not part of the figures. Every row but the limit is pinned to
    `cores` cores, if set. A loop without Lightning times at least `steps` steps. `devices` is the
    number of GPUs of the rows that train on several.
    """

    title: str
    rows: tuple[str, ...]
    network: str
    batch: int
    usual_batch: int
    epochs: int
    train: int
    val: int
    image_size: int = 32
    small_images: bool = True
    folder: bool = False
    cores: int | None = None
    devices: int | None = None
    workers: int = 8
    steps: int = 300
    compiles: bool = True
    device: str = "cuda"

    @property
    def all_workers(self) -> int:
        """One worker for each core that this process may use."""
        return len(os.sched_getaffinity(0)) if self.device == "cuda" else self.workers


_RESNET18 = Workload(
    "ResNet-18, small stem, 50,000 images of 32 by 32 pixels, batch 128",
    (
        "usual-eager",
        "usual-compiled",
        "usual-lightning",
        "ours",
        "ours-step-graph",
        "limit",
    ),
    network="resnet18",
    batch=128,
    usual_batch=128,
    epochs=11,
    train=50_000,
    val=10_000,
)
_RESNET50 = Workload(
    "ResNet-50, 20,000 JPEG files of 500 by 375 pixels cropped to 224, batch 256",
    ("usual-compiled", "torchvision", "timm", "ours", "ours-resident", "limit"),
    network="resnet50",
    batch=256,
    usual_batch=128,
    epochs=4,
    train=20_000,
    val=2_000,
    image_size=224,
    small_images=False,
    folder=True,
)
WORKLOADS = {
    "resnet18-128": _RESNET18,
    "resnet18-512": replace(
        _RESNET18,
        title=_RESNET18.title.replace("128", "512"),
        rows=_RESNET18.rows[1:],
        batch=512,
        usual_batch=512,
    ),
    "resnet50-jpeg": _RESNET50,
    "resnet50-jpeg-4cores": replace(
        _RESNET50,
        title=f"{_RESNET50.title}, on 4 cores",
        rows=tuple(
            row for row in _RESNET50.rows if row != "ours-resident"
        ),  # does not depend on cores
        cores=4,
    ),
}


def workload(name: str, tiny: bool = False, devices: int | None = None) -> Workload:
    """Return the workload with this name; if `tiny`, a version that a CPU trains in seconds.

    With `devices`, its rows compare one GPU with so many.
    """
    full = WORKLOADS[name]
    if devices is not None:
        title = f"{full.title} a GPU"
        full = replace(full, title=title, rows=OF_SEVERAL, devices=devices)
    if not tiny:
        return full
    small = replace(full, network="small_cnn", batch=16, usual_batch=16, train=320, val=40)
    small = replace(small, image_size=32, small_images=True, cores=None, workers=1)
    return replace(small, epochs=2, steps=20, compiles=False, device="cpu")


def label_of(row: str, devices: int | None = None) -> str:
    return LABELS[row].format(devices="1 GPU" if devices == 1 else f"{devices} GPUs")
