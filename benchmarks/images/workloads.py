"""The workloads of images, and the rows of each."""

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from workload import ON_SEVERAL, STEP_GRAPH, Row, Workload

CLASSES = 10
KERNELS = ("flash", "efficient", "math", "cudnn")  # of attention, in torch
AVERAGED = {"model.ema": "0.999"}
AUGMENTED = {  # all augmentations that can be combined, compiled as in a long run
    "data.compile_augmentation": "true",
    "data.vertical_flip": "true",
    "data.rotation": "15",
    "data.randaugment": "9",
    "data.brightness": "0.4",
    "data.contrast": "0.4",
    "data.saturation": "0.4",
    "data.hue": "0.1",
    "data.erasing": "0.25",
}
NONDETERMINISTIC = {"trainer.deterministic": "false"}


def with_kernel(name: str) -> dict[str, str]:
    """Return the flags with which attention may use this kernel only."""
    only = {"trainer.callbacks+": "images.attention.OnlyKernel"}
    return only | {"trainer.callbacks.kernel": name}


@dataclass(frozen=True)
class ImageWorkload(Workload):
    """A network for images of `image_size` pixels, made or from a `folder` of JPEG files.

    The usual script and Lightning project use `usual_batch`, all other rows use `batch`. The usual
    ones train with Adam and `usual_rate`; `recipe` are further settings of ours.
    """

    usual_batch: int = 128
    image_size: int = 32
    small_images: bool = True
    folder: bool = False
    usual_rate: float = 1e-3
    recipe: Mapping[str, Any] = field(default_factory=dict)

    PACKAGE: ClassVar[str] = "images"
    UNIT: ClassVar[str] = "img/s"
    THINGS: ClassVar[str] = "images"
    ROWS: ClassVar[dict[str, Row]] = {
        "usual-eager": Row("the usual script"),
        "usual-compiled": Row("the usual script, torch.compile"),
        "usual-lightning": Row("the usual Lightning project"),
        "torchvision": Row("torchvision's loading, fast loop"),
        "timm": Row("timm's loading, fast loop"),
        "ours": Row("ours", {}),
        "ours-step-graph": Row("ours, step graph", STEP_GRAPH),
        "ours-averaged": Row("ours, averaged weights", AVERAGED),
        "ours-augmented": Row("ours, averaged weights, all augmentations", AVERAGED | AUGMENTED),
        "ours-resident": Row("ours, images on the GPU", {}),
        "limit": Row("the limit"),
        "limit-validation": Row("the limit of validation"),
        "flash": Row("ours, uncompiled, flash", with_kernel("flash")),
        "efficient": Row("ours, uncompiled, efficient", with_kernel("efficient")),
        "math": Row("ours, uncompiled, math", with_kernel("math")),
        "cudnn": Row("ours, uncompiled, cuDNN", with_kernel("cudnn")),
        "flash-nondeterministic": Row(
            "ours, uncompiled, flash, nondeterministic", with_kernel("flash") | NONDETERMINISTIC
        ),
        "efficient-nondeterministic": Row(
            "ours, uncompiled, efficient, nondeterministic",
            with_kernel("efficient") | NONDETERMINISTIC,
        ),
        "cudnn-nondeterministic": Row(
            "ours, uncompiled, cuDNN, nondeterministic", with_kernel("cudnn") | NONDETERMINISTIC
        ),
        **ON_SEVERAL,
    }
    OF_SEVERAL: ClassVar[tuple[str, ...]] = ("ours", "limit", *ON_SEVERAL)

    def flags(self, row: str, asked: Namespace) -> dict[str, Any]:
        streams = self.folder and row != "ours-resident"
        options = {"image_size": self.image_size, "train": self.train, "val": self.val}
        if self.folder:  # in GPU memory: half as many images give the same figure
            options |= {"train": self.train // 2, "val": self.val // 2}
        if streams:
            options = {"path": str(asked.jpegs.resolve())}
        recipe = "imagefolder.yaml" if streams else "synthetic.yaml"
        flags = {
            "config": asked.project / "configs" / recipe,
            "data.options": json.dumps(options),
            "data.batch_size": self.batch,
            "model.network": self.network,
            "model.small_images": json.dumps(self.small_images),
            # A run of 30 epochs compiles automatically; one of a few hundred steps does not.
            "model.compile": json.dumps(self.compiles),
            "trainer.max_epochs": self.epochs,
        }
        if row in ON_SEVERAL:
            flags |= {"trainer.devices": self.devices, "data.batch_size": self.batch_of_each}
        if streams:
            flags |= {"data.image_size": self.image_size}
        elif self.folder:
            flags |= {"data.crop_padding": 0}
        if not self.small_images:
            flags |= {"model.learning_rate": 0.05}
        # The cache of compiled code does not know which kernels attention may use.
        if self.compiles and row.removesuffix("-nondeterministic") in KERNELS:
            flags |= {"model.compile": "eager-graph"}
        return flags | self.recipe

    def tiny(self) -> "ImageWorkload":
        small = replace(self, network="small_cnn", batch=16, usual_batch=16, train=320, val=40)
        return replace(small, image_size=32, small_images=True, epochs=2, steps=20, recipe={})

    def prepare(self, asked: Namespace) -> None:
        if self.folder:
            from images import jpegs

            jpegs.make(asked.jpegs, self.train, self.val)

    def arguments(self, asked: Namespace) -> list[str]:
        return ["--jpegs", str(asked.jpegs)] if self.folder else []

    def batch_of(self, row: str) -> int | None:
        own = row.startswith("usual") and self.usual_batch != self.batch
        return self.usual_batch if own else None


_RESNET18 = ImageWorkload(
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
    epochs=11,
    train=50_000,
    val=10_000,
)
_RESNET50 = ImageWorkload(
    "ResNet-50, 20,000 JPEG files of 500 by 375 pixels cropped to 224, batch 256",
    ("usual-compiled", "torchvision", "timm", "ours", "ours-resident", "limit"),
    network="resnet50",
    batch=256,
    epochs=4,
    train=20_000,
    val=2_000,
    image_size=224,
    small_images=False,
    folder=True,
)
_IN_MEMORY = replace(
    _RESNET50,
    title="ResNet-50, 5,120 images of 224 by 224 pixels, batch 128",
    rows=("usual-eager", "ours", "limit"),
    batch=128,
    train=5_120,
    val=512,
    folder=False,
    recipe={"data.eval_batch_size": 256},
)
IMAGE_WORKLOADS = {
    "small-cnn-128": replace(
        _RESNET18,
        title=_RESNET18.title.replace("ResNet-18, small stem", "small_cnn"),
        network="small_cnn",
    ),
    "resnet18-128": _RESNET18,
    "resnet18-extras": replace(
        _RESNET18,
        title=f"{_RESNET18.title}: averaged weights and augmentations",
        rows=("ours", "ours-averaged", "ours-augmented", "limit"),
    ),
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
    "resnet50-128": _IN_MEMORY,
    "vit-b-128": replace(
        _IN_MEMORY,
        title=_IN_MEMORY.title.replace("ResNet-50", "ViT-B/16"),
        rows=(
            *("usual-eager", "ours", *KERNELS),
            *(f"{name}-nondeterministic" for name in ("flash", "efficient", "cudnn")),
        ),
        network="vit_b_16",
        usual_rate=1e-4,
        recipe={**_IN_MEMORY.recipe, "model.optimizer": "adamw", "model.learning_rate": 1e-4},
    ),
}
