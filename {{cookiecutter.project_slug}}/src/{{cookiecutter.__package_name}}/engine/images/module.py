"""The base class of image data: how files are read, and the facts in a run's record."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch

from ..contract import Facts
from ..data.classes import Sampler, check_sampler, class_counts, remarks_on, sample_weights
from ..data.module import Data
from ..errors import UserError
from ..ranks import is_rank_zero
from .batch import ImageBatch
from .checking.inspection import FAULTS
from .finding.names import as_text
from .reading.reader import FileRows, ReadConfig
from .reading.source_channels import channels_of, with_channels
from .splits import Files, ImageSplits

RESIZED = (
    "note: augment.py changes the training images from {} by {} to {} by {} pixels (height by"
    " width); evaluation doesn't."
)


class ImageModule(Data):
    """The images of a source. Splits of files are decoded when they are read.

    Args:
        source: the splits that a source in data.py returned.
        name: the source's name in the run's record.
        batch_size: training images that one device computes at once: the micro-batch.
        eval_batch_size: images per step and device in validation, test and prediction.
        image_size: side, or height and width, to which the images of a folder are resized.
        smallest_crop: least share of an image's area in a random crop, for training on a folder.
        flip: mirror half of the training images of a folder.
        decoder: cpu or gpu, where a folder's JPEG files are decoded.
        channels: the number of channels; None for those that the source returned.
        sampler: balanced draws each class as often as another, with replacement.
        compile_augmentation: whether compiled code augments images; None if that is to be decided.
    """

    may_change: ClassVar[frozenset[str]] = frozenset({"decoder", "compile_augmentation"})

    def __init__(
        self,
        source: ImageSplits,
        name: str,
        batch_size: int,
        eval_batch_size: int,
        image_size: int | Sequence[int],
        smallest_crop: float,
        flip: bool,
        decoder: Literal["cpu", "gpu"] | None,
        channels: int | None = None,
        sampler: Sampler = None,
        compile_augmentation: bool | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.compile_augmentation = compile_augmentation
        _check_size(image_size)
        source = with_channels(source, name, channels)
        self.num_channels = channels_of(source.train)
        self.gpu_decoder = self.num_channels == 3
        if decoder == "gpu" and not self.gpu_decoder:
            raise UserError(
                f"data.decoder is gpu, which decodes to RGB, and data.channels is"
                f" {self.num_channels}: leave data.decoder unset."
            )
        if not 0 < smallest_crop <= 1:
            raise UserError(
                f"data.smallest_crop is {smallest_crop}; expected a share above 0, at most 1."
            )
        config = ReadConfig(image_size, smallest_crop, flip, decoder)
        config = replace(config, hushed=any(FAULTS in remark for remark in source.remarks))
        self._later = source.later
        if self._later is not None:
            self._later.left_out.mapped()
        parts = [_rows(part, config) for part in (source.train, source.val, source.test)]
        self.splits = ImageSplits(*parts, classes=source.classes, remarks=source.remarks)
        self._facts, self.objective = _facts(name, source, config), source.objective
        check_sampler(sampler, self.objective)
        numbers = self.objective == "numbers"
        self.train_numbers = source.train.labels if numbers else None
        self.class_counts: dict[str, int] | None = None
        if self.objective == "classes":
            self.class_counts = class_counts(source.train.labels, source.classes)
            self.sample_weights = sample_weights(sampler, source.train.labels)
            few = remarks_on(self.class_counts, "images")
            self._facts = replace(self._facts, remarks=self._facts.remarks + few)

    splits: ImageSplits

    @property
    def num_classes(self) -> int:
        """The number of outputs: the classes, or 1 for numbers."""
        return len(self.splits.classes) or 1

    @property
    def are_files(self) -> bool:
        """Whether training reads, crops and mirrors files in each epoch."""
        return self.decisions.loader.value == "streaming"

    @property
    def compiles(self) -> bool:
        """Whether compiled code augments images."""
        decided, loader = self.decisions.compile_augmentation.value, self.decisions.loader.value
        if decided != "none":
            return decided
        on_gpu = self._device().type == "cuda"  # without a command line
        return bool(self.compile_augmentation) and on_gpu and loader == "resident"

    def facts(self) -> Facts:
        """Return the facts; of files that are checked while training, what is known by now."""
        if self._later is None:
            return self._facts
        extra = self._facts.extra | {"check_later": self._later.as_json()}
        return replace(self._facts, extra=extra, remarks=self._facts.remarks + self._later.remarks)

    def check_augmented(self, batch: ImageBatch, augmented: ImageBatch) -> str | None:
        """Return what is wrong with the first augmented images, or None.

        Another height or width is only noted: a network may be trained at another resolution.
        """
        wrong = super().check_augmented(batch, augmented)
        if wrong is None:
            (_, before, *size), (_, after, *new_size) = batch.images.shape, augmented.images.shape
            if before == after:
                if size != new_size and is_rank_zero():
                    print(RESIZED.format(*size, *new_size), flush=True)
                return None
            wrong = f"returns images of {after} channels; expected {before}, as in evaluation"
        return f"{wrong}: change augment.py"

    def test_columns(self) -> dict[str, list[str]]:
        """Return the paths of the test images, if they are files."""
        if not isinstance(self.splits.test, FileRows):
            return {}
        paths = self.splits.test.files.paths
        return {"path": [as_text(os.fsdecode(paths.written(i))) for i in range(len(paths))]}

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        if self._later and stage == "fit" and trainer is not None and trainer.local_rank == 0:
            self._later.start()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Return the batch on the device. Raises UserError if the check found files of no use."""
        if self._later is not None:
            self._later.raise_problem()
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def teardown(self, *_: Any, **__: Any) -> None:
        super().teardown()
        if self._later is not None:
            self._later.stop()

    on_exception = teardown


def _check_size(size: int | Sequence[int]) -> None:
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(
            f"data.image_size is {size}; expected one side such as 224, or [height, width] such as"
            " [128, 512]."
        )


def _rows(split: ImageBatch | Files, config: ReadConfig) -> Any:
    return FileRows(split, config) if isinstance(split, Files) else split


def _facts(name: str, source: ImageSplits, config: ReadConfig) -> Facts:
    """Return the facts of a source. The service reads `extra` to show images as evaluation did."""
    parts = source.train, source.val, source.test
    from_files = any(isinstance(part, Files) for part in parts)
    bits = source.train.bits if isinstance(source.train, Files) else 16
    shape: tuple[int, ...] = (channels_of(source.train), config.size[1], config.size[0])
    if isinstance(source.train, ImageBatch):
        shape = tuple(source.train.images.shape[1:])
    return Facts(
        name,
        source.rows,
        source.fingerprint,
        unit="images",
        classes=source.classes,
        several=source.objective == "labels",
        shapes={"images": shape},
        extra={"from_files": from_files, "jpeg": from_files, "bits": bits},
        remarks=source.remarks,
    )
