"""Load a folder of JPEG files with torchvision and with timm, each with the same fast loop."""

from collections.abc import Callable
from pathlib import Path

import torch
from loop import Loop
from my_project.networks import build_network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from .usual import MEAN, STD
from .workloads import CLASSES, ImageWorkload

TF32 = "high"  # for the operations that remain in float32


def fast_step(
    network: nn.Module, device: torch.device, average: Callable[[list[Tensor]], None] | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the fastest training step in plain torch: bf16, channels last, fused SGD.

    `average` averages gradients over several devices, in place.
    """
    torch.set_float32_matmul_precision(TF32)
    network.to(device, memory_format=torch.channels_last).train()
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.SGD(
        network.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True, fused=True
    )

    def step(images: Tensor, labels: Tensor) -> Tensor:
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):  # slow on a CPU
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        if average:
            average([weight.grad for weight in network.parameters() if weight.grad is not None])
        optimizer.step()
        return loss.detach()

    return step


def torchvision_loading(work: ImageWorkload, jpegs: Path, loop: Loop) -> None:
    """Use decode_image and v2 on uint8, one worker per core; scale and normalize on the GPU."""
    crop = v2.RandomResizedCrop(work.image_size, antialias=True)
    pictures = datasets.ImageFolder(
        str(jpegs / "train"),
        v2.Compose([crop, v2.RandomHorizontalFlip()]),
        loader=lambda path: decode_image(path, ImageReadMode.RGB),
    )
    batches = DataLoader(
        pictures,
        work.batch,
        shuffle=True,
        drop_last=True,
        num_workers=work.all_workers,
        pin_memory=work.device == "cuda",
        persistent_workers=True,
    )
    network = build_network(work.network, CLASSES, work.small_images)
    _compile(network, work)
    loop.train(batches, fast_step(network, loop.device))


def timm_loading(work: ImageWorkload, jpegs: Path, loop: Loop) -> None:
    """Use timm's create_loader: Pillow, prefetching, one worker per core; normalize on the GPU."""
    from timm.data import ImageDataset, create_loader

    batches = create_loader(
        ImageDataset(str(jpegs / "train")),
        input_size=(3, work.image_size, work.image_size),
        batch_size=work.batch,
        is_training=True,
        use_prefetcher=True,
        color_jitter=None,  # only crop and flip, as in all rows
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=work.all_workers,
        persistent_workers=True,
        pin_memory=work.device == "cuda",
        device=loop.device,
    )
    network = build_network(work.network, CLASSES, work.small_images).body
    _compile(network, work)
    loop.train(batches, fast_step(network, loop.device))


def _compile(network: nn.Module, work: ImageWorkload) -> None:
    if work.compiles:
        network.compile(mode="reduce-overhead", dynamic=False)
