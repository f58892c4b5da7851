"""Chooses and wires source, order, loader and augmentation, and says what it chose."""

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from .. import hardware
from ..errors import UserError
from . import augment as augmentation
from . import sources
from .order import Share
from .resident import ResidentEvalLoader, ResidentTrainLoader
from .splits import Files, Images
from .streaming import Reading, StreamingEvalLoader, StreamingTrainLoader, check_shared_memory

TrainLoader = ResidentTrainLoader | StreamingTrainLoader
EvalLoader = ResidentEvalLoader | StreamingEvalLoader


class ImageData(L.LightningDataModule):
    """The images of one source, as batches on the device.

    Args:
        source: digits, mnist, fashion_mnist, cifar10, cifar100, folder or synthetic.
        options: keyword arguments of that source, such as path for folder.
        batch_size: training images that a device computes at once, the micro-batch.
        global_batch_size: training images per optimizer step, over all devices; gradients are
            accumulated over as many micro-batches as that takes. Unset, one on each device.
        eval_batch_size: images per step and device in validation, test and prediction.
        flip: mirror every second training image; wrong for digits and text.
        crop_padding: random shift of training images by up to this many pixels, not for folders.
        image_size: height and width to which the images of a folder are brought.
        smallest_crop: least share of an image's area that training on a folder sees at a time.
        workers: processes per device that read a folder; unset, from the cores that are free.
        prefetch: batches that each worker reads ahead.
        seed: decides the order of the images and their augmentation; unset means the run's seed.
    """

    def __init__(
        self,
        source: str = "digits",
        options: dict[str, Any] | None = None,
        batch_size: int = 128,
        global_batch_size: int | None = None,
        eval_batch_size: int = 256,
        flip: bool = False,
        crop_padding: int = 0,
        image_size: int = 224,
        smallest_crop: float = 0.25,
        workers: int | None = None,
        prefetch: int = 4,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.options = source, options
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.crop_padding, self.flip = crop_padding, flip
        self.seed = 0 if seed is None else seed
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        counts |= {"image_size": image_size, "prefetch": prefetch}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"data.{name} is {value}; it counts from 1 on.")
        if crop_padding < 0 or (workers or 0) < 0:
            raise UserError(f"data.crop_padding is {crop_padding}, data.workers {workers}; from 0.")
        if not 0 < smallest_crop <= 1:
            raise UserError(f"data.smallest_crop is {smallest_crop}; it is a share, up to 1.")
        if workers is None:
            workers = hardware.workers(hardware.this_machine(), 1)
        self.reading = Reading(image_size, self.seed, smallest_crop, flip, workers, prefetch)
        self.splits = sources.load(source, options)
        self.streams = isinstance(self.splits.train, Files)

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the images that a network is given."""
        if isinstance(self.splits.train, Images):
            return tuple(self.splits.train.pixels.shape[1:])
        return self.reading.image_size, self.reading.image_size, 3

    def describe(self) -> dict[str, Any]:
        """Return what a run's record holds about the data: sizes, loader, content fingerprint."""
        splits, workers = self.splits, self.reading.workers
        streaming = f"read from files by {workers} workers" if workers else "read from files"
        return {
            "source": self.source,
            "images": {name: len(getattr(splits, name)) for name in ("train", "val", "test")},
            "image_shape": list(self.image_shape),
            "classes": len(splits.classes),
            "loader": streaming if self.streams else "resident on the device as uint8",
            "remarks": list(splits.remarks),
            "fingerprint": splits.fingerprint,
        }

    def train_dataloader(self) -> TrainLoader:
        """Raises UserError if the images do not fill one step."""
        share, images = self._share(self.batch_size), self.splits.train
        if len(images) < share.step:
            fits = max(len(images) // (share.step // share.batch_size), 1)
            raise UserError(
                f"The training split has {len(images)} images, fewer than one step of {share.step}"
                f" ({share.accumulate} x {share.batch_size} on {share.world_size} devices). Set"
                f" --data.batch_size to {fits} or less."
            )
        if isinstance(images, Files):
            how = self._reading(self.batch_size)
            return StreamingTrainLoader(images, share, how, self._position)
        return ResidentTrainLoader(
            images,
            share,
            self.seed,
            self._augment,
            augmentation.DRAWS,
            self._position,
            self._device(),
        )

    def eval_dataloader(self, images: Images | Files, alone: bool = False) -> EvalLoader:
        """Return a loader of every one of these images in order: of this process's, or of all."""
        share = Share(self.eval_batch_size) if alone else self._share(self.eval_batch_size)
        if isinstance(images, Files):
            return StreamingEvalLoader(images, share, self._reading(self.eval_batch_size))
        return ResidentEvalLoader(images, share, self._device())

    def val_dataloader(self) -> EvalLoader:
        return self.eval_dataloader(self.splits.val)

    def test_dataloader(self) -> EvalLoader:
        if not len(self.splits.test):
            raise UserError(f"The source '{self.source}' has no test images: add a folder test/.")
        return self.eval_dataloader(self.splits.test)

    def predict_dataloader(self) -> EvalLoader:
        return self.test_dataloader()

    def _augment(self, images: Tensor, draws: Tensor) -> Tensor:
        return augmentation.augment(images, draws, self.crop_padding, self.flip)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _reading(self, batch_size: int) -> Reading:
        processes = 1 if self.trainer is None else self.trainer.num_devices  # on this machine
        check_shared_memory(self.reading, batch_size, processes, hardware.free_shared_memory())
        return replace(self.reading, pin=self._device().type == "cuda")

    def _share(self, batch_size: int) -> Share:
        """Return this process's place among all; it is alone without a Trainer."""
        if self.trainer is None:
            return Share(batch_size)
        trainer = self.trainer
        return Share(
            batch_size, trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches
        )

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the batch in it that come next, from the Trainer's own progress.

        Lightning restores that progress from a checkpoint, so the loader has nothing to save.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return divmod(done, int(loop.max_batches))
