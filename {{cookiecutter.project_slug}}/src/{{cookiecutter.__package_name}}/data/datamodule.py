"""Chooses and wires source, order, loader and augmentation, and says what it chose."""

from typing import Any

import lightning as L
import torch

from ..errors import UserError
from . import augment as augmentation
from . import sources
from .resident import Batch, ResidentEvalLoader, ResidentTrainLoader


class ImageData(L.LightningDataModule):
    """The images of one source, as batches on the device.

    Args:
        source: digits, or synthetic.
        options: keyword arguments of that source, such as image_size for synthetic.
        batch_size: training images per step and device.
        eval_batch_size: images per step and device in validation, test and prediction.
        crop_padding: random shift of training images by up to this many pixels.
        flip: mirror every second training image; wrong for digits and text.
        seed: decides the order of the images and their augmentation; unset means the run's seed.
    """

    def __init__(
        self,
        source: str = "digits",
        options: dict[str, int] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        crop_padding: int = 0,
        flip: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.options = source, options
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.crop_padding, self.flip = crop_padding, flip
        self.seed = 0 if seed is None else seed
        if min(batch_size, eval_batch_size) < 1:
            raise UserError(
                f"data.batch_size is {batch_size} and data.eval_batch_size {eval_batch_size}; both"
                " count images, from 1 on."
            )
        self.splits = sources.load(source, options)

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    def describe(self) -> dict[str, Any]:
        """Return what a run's record holds about the data: sizes, loader, content fingerprint."""
        splits = self.splits
        return {
            "source": self.source,
            "images": {name: len(getattr(splits, name)) for name in ("train", "val", "test")},
            "image_shape": list(splits.train.pixels.shape[1:]),
            "classes": len(splits.classes),
            "loader": "resident",
            "fingerprint": splits.fingerprint,
        }

    def train_dataloader(self) -> ResidentTrainLoader:
        return ResidentTrainLoader(
            self.splits.train,
            self.batch_size,
            self.seed,
            augmentation.DRAWS,
            self._position,
            **self._place(),
        )

    def val_dataloader(self) -> ResidentEvalLoader:
        return ResidentEvalLoader(self.splits.val, self.eval_batch_size, **self._place())

    def test_dataloader(self) -> ResidentEvalLoader:
        return ResidentEvalLoader(self.splits.test, self.eval_batch_size, **self._place())

    def predict_dataloader(self) -> ResidentEvalLoader:
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.trainer is None or not self.trainer.training:
            return batch
        images = augmentation.augment(batch.images, batch.draws, self.crop_padding, self.flip)
        return batch._replace(images=images)

    def _place(self) -> dict[str, Any]:
        """Return this process's device and place among all; the CPU, alone, without a Trainer."""
        if self.trainer is None:
            return {"device": torch.device("cpu")}
        return {
            "device": self.trainer.strategy.root_device,
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
        }

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the batch in it that come next, from the Trainer's own progress.

        Lightning restores that progress from a checkpoint, so the loader has nothing to save.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return divmod(done, int(loop.max_batches))
