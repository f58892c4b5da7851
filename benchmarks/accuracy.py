"""Compare the accuracy of ours with a plain float32 script's, after the same epochs.

`accuracy.py [--seeds 5]` trains on handwritten digits and on a folder of synthetic JPEG files. Both
use the same network, optimizer, schedule, number of images and crops; only the computation differs.
The exit status is 1 if the means differ significantly.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import jpegs
import report
import torch
from compare import BUILD
from my_project.data import digits
from my_project.engine.model.optimizers import build_schedule
from my_project.networks import build_network
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from usual import Pictures, to_tensor

WORKERS = min(len(os.sched_getaffinity(0)), 8)


@dataclass(frozen=True)
class Task:
    """The settings of both. Ours uses `recipe` with `flags`."""

    recipe: str
    epochs: int
    batch: int
    rate: float
    small_images: bool
    flags: tuple[str, ...] = ()
    size: int = 8


TASKS = {
    "digits": Task("digits.yaml", 30, 64, 0.1, True),
    "folder": Task(
        "imagefolder.yaml",
        4,
        64,
        0.05,
        False,
        ("--data.image_size=64", "--model.network=small_cnn", "--model.learning_rate=0.05"),
        size=64,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="runs of ours in parallel")
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--images", type=int, default=4000, help="training images in the folder")
    parser.add_argument("--project", type=Path, default=BUILD / "my-project")
    parser.add_argument("--jpegs", type=Path, default=BUILD / "few-jpegs")
    asked = parser.parse_args()
    if asked.seeds < 2 or asked.at_once < 1:
        found = f"--seeds {asked.seeds} --at-once {asked.at_once}"
        parser.error(f"{found}: expected at least 2 seeds, for a variance, and at least 1 at once")
    apart = False
    print("| validation accuracy | plain float32 | ours | difference | 2 standard errors |")
    print("|---|--:|--:|--:|--:|")
    for name in asked.tasks:
        task = TASKS[name]
        if name == "folder":
            jpegs.make(asked.jpegs, asked.images, asked.images // 4)
        epochs = asked.epochs or task.epochs
        plain = [train_plainly(task, asked.jpegs, epochs, seed) for seed in range(asked.seeds)]
        with ThreadPoolExecutor(asked.at_once) as pool:  # their time is not measured
            ours = list(pool.map(partial(train_ours, task, asked, epochs), range(asked.seeds)))
        difference, chance = report.apart(plain, ours)
        apart |= abs(difference) > chance
        cells = [f"{mean(row):.2%} ± {stdev(row):.2%}" for row in (plain, ours)]
        cells += [f"{difference:+.2%}", f"± {chance:.2%}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return int(apart)


def train_ours(task: Task, asked: argparse.Namespace, epochs: int, seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config={asked.project / 'configs' / task.recipe}", f"--seed_everything={seed}"]
        flags += [*task.flags, f"--trainer.max_epochs={epochs}"]
        if task.recipe == "imagefolder.yaml":
            flags.append(f"--data.options.path={asked.jpegs.resolve()}")
        if torch.cuda.is_available():  # as longer runs do automatically
            flags.append("--model.compile=true")
        settings = os.environ | {"RUN_FOLDER": f"{folder}/run"}
        paths = [str(asked.project.resolve() / "src"), os.environ.get("PYTHONPATH", "")]
        settings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "my_project", "fit", *flags]
        log = Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
        if process.wait():
            raise SystemExit(log.read_text())
        record = json.loads(Path(folder, "run", "run.json").read_text())
        return record["results"]["val/accuracy"]


def train_plainly(task: Task, files: Path, epochs: int, seed: int) -> float:
    """Train in float32 without compiling, with torchvision's transforms; return the accuracy."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val = images(task, files)
    batches = DataLoader(train, task.batch, shuffle=True, drop_last=True, num_workers=WORKERS)
    network = build_network("small_cnn", 10, task.small_images).body.to(device)
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
        for pictures, labels in DataLoader(val, task.batch, num_workers=WORKERS):
            right += int((network(pictures.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(val)


def images(task: Task, files: Path) -> list[Dataset]:
    """Return the plain script's training and validation images."""
    if task.recipe == "digits.yaml":
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
        datasets.ImageFolder(str(files / part), transforms.Compose([*way, *to_tensor()]))
        for part, way in ways.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
