"""Plain float32 training on images, for a comparison of accuracies with ours."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from my_project.data import digits
from my_project.engine.model.optimizers import build_schedule
from my_project.networks import build_network
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from . import jpegs
from .usual import Pictures, to_tensor

WORKERS = min(len(os.sched_getaffinity(0)), 8)
BATCH = 64


@dataclass(frozen=True)
class Task:
    """The settings of both. Ours uses `recipe` with `flags`; `files` is the folder of the JPEGs."""

    recipe: str
    epochs: int
    rate: float
    size: int
    flags: tuple[str, ...] = ()
    files: Path | None = None


def task(name: str, asked: argparse.Namespace) -> Task:
    """Return the task `digits`, or `folder`, whose files are made."""
    if name == "digits":
        return Task("digits.yaml", 30, 0.1, 8)
    jpegs.make(asked.jpegs, asked.images, asked.images // 4)
    flags = (
        "--data.image_size=64",
        "--model.network=small_cnn",
        "--model.learning_rate=0.05",
        f"--data.options.path={asked.jpegs.resolve()}",
    )
    return Task("imagefolder.yaml", 4, 0.05, 64, flags, asked.jpegs)


def train(task: Task, epochs: int, seed: int) -> float:
    """Train in float32 without compiling, with torchvision's transforms; return the accuracy."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val = images(task)
    batches = DataLoader(train, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS)
    network = build_network("small_cnn", 10, task.files is None).body.to(device)
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=task.rate, momentum=0.9, nesterov=True)
    steps = epochs * len(batches)
    schedule = build_schedule(optimizer, "one_cycle", 0.2, steps)
    for _ in range(epochs):
        network.train()
        for pictures, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(pictures.to(device)), labels.to(device)).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    right = 0
    with torch.no_grad():
        for pictures, labels in DataLoader(val, BATCH, num_workers=WORKERS):
            right += int((network(pictures.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(val)


def images(task: Task) -> list[Dataset]:
    """Return the plain script's training and validation images."""
    if task.files is None:
        crop = transforms.RandomCrop(task.size, padding=1)
        splits, whole = digits(), transforms.Compose(to_tensor())
        return [
            Pictures(splits.train, transforms.Compose([crop, *to_tensor()])),
            Pictures(splits.val, whole),
        ]
    crop = transforms.RandomResizedCrop(task.size, scale=(0.25, 1.0))
    shorter = round(task.size * 256 / 224)
    ways = {
        "train": [crop, transforms.RandomHorizontalFlip()],
        "val": [transforms.Resize(shorter), transforms.CenterCrop(task.size)],
    }
    return [
        datasets.ImageFolder(str(task.files / part), transforms.Compose([*way, *to_tensor()]))
        for part, way in ways.items()
    ]
