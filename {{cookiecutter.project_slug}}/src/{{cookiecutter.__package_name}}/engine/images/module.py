"""Chooses and wires source, order, loader and augmentation, and says what it chose."""

from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch

from ... import data as sources
from ...augment import UNCHANGED, Augmentation
from .. import hardware
from ..data.order import Plan, Share
from ..data.resident import ResidentLoader
from ..data.streaming import StreamingLoader
from ..errors import UserError
from .decoded_cache import decoded
from .reader import Reading, check_shared_memory
from .splits import Files, Images

Loader = ResidentLoader | StreamingLoader

LEAST = dict.fromkeys(("batch_size", "eval_batch_size", "image_size", "prefetch"), 1)
LEAST |= dict.fromkeys(("crop_padding", "cutout", "mixup", "cutmix", "workers"), 0)


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
        cutout: side in pixels of a square that is blackened in each training image.
        mixup: alpha of the shares in which training images are blended with another; 0 is off.
        cutmix: alpha of the shares of another image that training images show; 0 is off.
        loader: resident keeps uint8 pixels on the device, mapped in the host's memory; a folder is
            decoded for both once, without random crops, into the user's cache. streaming reads its
            files at each epoch. Unset: streaming for a folder, resident for what fits.
        workers: processes per device that read a folder; unset, from the cores that are free.
        prefetch: batches that each worker reads ahead.
        decoder: cpu or gpu, where a folder's JPEG files are decoded; unset, gpu where the cores
            would not keep up and the GPU has engines for it.
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
        cutout: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        loader: Literal["resident", "mapped", "streaming"] | None = None,
        workers: int | None = None,
        prefetch: int = 2,
        decoder: Literal["cpu", "gpu"] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.options = source, options
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment = Augmentation(crop_padding, flip, cutout, mixup, cutmix)
        self.seed = 0 if seed is None else seed
        for name, least in LEAST.items():
            if (given := locals()[name]) is not None and given < least:
                raise UserError(f"data.{name} is {given}; it counts from {least} on.")
        if not 0 < smallest_crop <= 1:
            raise UserError(f"data.smallest_crop is {smallest_crop}; it is a share, up to 1.")
        if workers is None:
            workers = hardware.workers(hardware.this_machine(), 1)
        self.reading = Reading(
            image_size, self.seed, smallest_crop, flip, workers, prefetch, decoder or "cpu"
        )
        self.splits = sources.load(source, options)
        parts = self.splits.train, self.splits.val, self.splits.test
        files = any(isinstance(part, Files) for part in parts)
        size = sum(part.pixels.nbytes for part in parts if isinstance(part, Images))
        fits = hardware.fits_on_device(hardware.this_machine(), size)
        self.loader = loader or ("streaming" if files else "resident" if fits else "mapped")
        if self.loader == "streaming" and not files:
            raise UserError(f"data.loader is streaming, but {source} has no files: leave it unset.")

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
        splits, place = self.splits, self.reading.decoder.upper()
        loaders = {
            "resident": "resident on the device as uint8",
            "mapped": "in the host's memory as uint8, copied ahead",
            "streaming": f"files read by {self.reading.workers} workers, decoded by the {place}",
        }
        return {
            "source": self.source,
            "images": {name: len(getattr(splits, name)) for name in ("train", "val", "test")},
            "image_shape": list(self.image_shape),
            "classes": len(splits.classes),
            "loader": loaders[self.loader],
            "remarks": list(splits.remarks),
            "fingerprint": splits.fingerprint,
        }

    def train_dataloader(self) -> Loader:
        """Raises UserError if the images do not fill one step."""
        share, images = self._share(self.batch_size), self.splits.train
        if len(images) < share.step:
            fits = max(len(images) // (share.step // share.batch_size), 1)
            raise UserError(
                f"The training split has {len(images)} images, fewer than one step of {share.step}."
                f" Set --data.batch_size to {fits} or less."
            )
        plan = Plan(len(images), share, self.seed, self._position)
        if self.loader == "streaming" and isinstance(images, Files):
            further = replace(self.augment, crop_padding=0, flip=False)  # done in the reading
            how = self._reading(images, self.batch_size)
            return StreamingLoader(images, plan, how, further)
        return self._resident(images, plan, self.augment)

    def eval_dataloader(self, images: Images | Files, first: int | None = None) -> Loader:
        """Return a loader of this process's part of all images in order, or of the `first` ones."""
        alone, n = first is not None, min(len(images), first or len(images))
        share = Share(self.eval_batch_size) if alone else self._share(self.eval_batch_size)
        plan = Plan(n, share)
        if isinstance(images, Files) and (alone or self.loader == "streaming"):
            how = self._reading(images, self.eval_batch_size, again=not alone)
            return StreamingLoader(images, plan, how)
        return self._resident(images, plan, UNCHANGED)

    def val_dataloader(self) -> Loader:
        return self.eval_dataloader(self.splits.val)

    def test_dataloader(self) -> Loader:
        if not len(self.splits.test):
            raise UserError(f"The source '{self.source}' has no test images: add a folder test/.")
        return self.eval_dataloader(self.splits.test)

    predict_dataloader = test_dataloader

    def teardown(self, *_: Any, **__: Any) -> None:
        for kind in ("train_dataloader", *map("{}_dataloaders".format, ("val", "test", "predict"))):
            if isinstance(loader := getattr(self.trainer, kind), StreamingLoader):
                loader.end()

    on_exception = teardown

    def _resident(self, images: Images | Files, plan: Plan, augment: Augmentation) -> Loader:
        if isinstance(images, Files):
            images = decoded(images, self.reading.image_size)
        return ResidentLoader(images, plan, self._device(), self.loader == "mapped", augment)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _reading(self, files: Files, batch_size: int, again: bool = True) -> Reading:
        fits = again and self.trainer is not None and self.trainer.state.fn == "fit"
        devices = self.trainer.num_devices if self.trainer is not None and again else 1
        loaders = devices * (2 if fits else 1)  # each process here has one, or one to validate too
        device, free = self._device(), hardware.free_shared_memory()
        decoder = self.reading.decoder if device.type == "cuda" else "cpu"
        how = replace(self.reading, device=device, decoder=decoder, endless=fits)
        check_shared_memory(how, how.slot_size(files, batch_size), loaders, free)
        return how

    def _share(self, batch_size: int) -> Share:
        if self.trainer is None:
            return Share(batch_size)
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        return Share(batch_size, rank, processes, self.trainer.accumulate_grad_batches)

    def _position(self) -> tuple[int, int]:
        """Return the next epoch and batch, from the Trainer's progress, which it saves itself."""
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return divmod(done, int(loop.max_batches))
