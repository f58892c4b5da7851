"""The baselines: the script of the tutorials, and a Lightning project built like it."""

import tempfile
from pathlib import Path

import lightning as L
import torch
from loop import Loop
from my_project.data import synthetic
from my_project.engine.images.batch import ImageBatch
from my_project.engine.tools.timing import ClockCallback
from my_project.networks import build_network
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms

from .workloads import CLASSES, ImageWorkload

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures(Dataset):
    """Images in memory, converted to Pillow images and transformed one by one."""

    def __init__(self, images: ImageBatch, transform: transforms.Compose) -> None:
        self.pixels = images.images.permute(0, 2, 3, 1).numpy()
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def script(work: ImageWorkload, jpegs: Path | None, loop: Loop, compiled: bool) -> None:
    """Adam, float32, Pillow and float32 tensors in 8 workers, pinned memory, some losses printed.

    Two choices favour this script: it keeps its workers, and it drops the smaller last batch, so
    that torch.compile does not compile again.
    """
    device = loop.device
    network = plain_network(work).to(device)
    model = torch.compile(network) if compiled and work.compiles else network
    optimizer = torch.optim.Adam(model.parameters(), lr=work.usual_rate)
    steps = 0

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if steps % 100 == 0:
            print(f"step {steps}  loss {loss.item():.3f}", flush=True)
        return loss.detach()

    network.train()
    loop.train(loader(train_set(work, jpegs), work, train=True), step)


def plain_network(work: ImageWorkload) -> nn.Module:
    """Return the same network without its first layer: it takes float32 images."""
    return build_network(work.network, CLASSES, work.small_images).body


def train_set(work: ImageWorkload, jpegs: Path | None) -> Dataset:
    if jpegs is not None:
        crop: nn.Module = transforms.RandomResizedCrop(work.image_size)
    else:
        crop = transforms.RandomCrop(work.image_size, padding=4)
    steps = [crop, transforms.RandomHorizontalFlip(), *to_tensor()]
    if jpegs is not None:
        return datasets.ImageFolder(str(jpegs / "train"), transforms.Compose(steps))
    return Pictures(made(work).train, transforms.Compose(steps))


def to_tensor() -> list:
    return [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def made(work: ImageWorkload):
    """Return the project's synthetic images."""
    return synthetic(work.image_size, work.train, work.val, CLASSES)


def loader(images: Dataset, work: ImageWorkload, train: bool) -> DataLoader:
    return DataLoader(
        images,
        batch_size=work.usual_batch,
        shuffle=train,
        drop_last=train,
        num_workers=work.workers,
        pin_memory=work.device == "cuda",
        persistent_workers=True,
    )


class Classifier(L.LightningModule):
    """A module as in other templates: logs each step and each epoch, also to the progress bar."""

    def __init__(self, network: nn.Module, compiled: bool) -> None:
        super().__init__()
        self.network = torch.compile(network) if compiled else network
        self.train_accuracy = MulticlassAccuracy(CLASSES)
        self.val_accuracy = MulticlassAccuracy(CLASSES)

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        loss, logits, labels = self._loss(batch)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx: int) -> None:
        loss, logits, labels = self._loss(batch)
        self.val_accuracy(logits, labels)
        self.log("val/loss", loss, prog_bar=True)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def _loss(self, batch):
        images, labels = batch
        logits = self.network(images)
        return F.cross_entropy(logits, labels), logits, labels

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def lightning_project(work: ImageWorkload, out: Path) -> None:
    """bf16, compiled, 8 workers, each step logged, progress bar, ModelCheckpoint, CSVLogger."""
    model = Classifier(plain_network(work), compiled=work.compiles)
    val = Pictures(made(work).val, transforms.Compose(to_tensor()))
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        trainer = L.Trainer(
            accelerator=work.device,
            devices=1,
            precision="bf16-mixed" if work.device == "cuda" else "32-true",
            max_epochs=min(work.epochs, 3),
            default_root_dir=folder,
            logger=L.pytorch.loggers.CSVLogger(folder),
            callbacks=[
                L.pytorch.callbacks.ModelCheckpoint(
                    monitor="val/accuracy", mode="max", save_last=True
                ),
                ClockCallback(out),
            ],
        )
        batches = loader(train_set(work, None), work, train=True)
        trainer.fit(model, batches, loader(val, work, train=False))
