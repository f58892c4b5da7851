"""The data: the sources of images, and the settings for loading and augmenting them.

To add a source, write a function that returns ImageSplits and add it to SOURCES. Each of its
splits is what `in_memory(pixels, labels)` returns, or comes from `folder`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from .augment import Augmentation
from .engine import Uniforms
from .engine.data.order import uniforms
from .engine.data.sources import load_source
from .engine.images.batch import ImageBatch, in_memory
from .engine.images.folder import folder
from .engine.images.later import checked
from .engine.images.module import ImageModule
from .engine.images.published import SPLIT_SEED, published, stratified
from .engine.images.splits import ImageSplits


def digits() -> ImageSplits:
    """Return scikit-learn's handwritten digits: 1,797 real images of 8 by 8 pixels in 10 classes.

    A fifth of each class is the test split, and another fifth is the validation split. (E. Alpaydin
    and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.)
    """
    from sklearn.datasets import load_digits  # importing takes a second

    data = load_digits()
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    pixels, labels = np.repeat(grey[..., None], 3, axis=-1), data.target
    train, test = stratified(np.arange(len(labels)), labels, 0.2)
    train, val = stratified(train, labels[train], 0.25)
    parts = [in_memory(pixels[index], labels[index]) for index in (train, val, test)]
    return ImageSplits(*parts, classes=tuple(str(name) for name in data.target_names))


def synthetic(
    image_size: int = 32, train: int = 50_000, val: int = 10_000, num_classes: int = 10
) -> ImageSplits:
    """Return synthetic images: noise around one colour per class, for speed measurements and tests.

    They are `image_size` pixels high and wide. `train` and `val` are their numbers; the test split
    has `val` images too.
    """
    colours = (uniforms(SPLIT_SEED, 0, torch.arange(num_classes), 3) * 95).byte()

    def noise(start: int, n: int) -> ImageBatch:
        labels = torch.arange(start, start + n) % num_classes
        generator = torch.Generator().manual_seed(SPLIT_SEED + start)
        size = n * image_size * image_size * 3
        draws = torch.empty(size // 8 + 1, dtype=torch.int64)  # of 8 bytes each, which is faster
        values = draws.random_(generator=generator).view(torch.uint8)[:size]
        pixels = values.view(n, image_size, image_size, 3) & 127
        pixels += colours[labels][:, None, None, :]
        return in_memory(pixels, labels)

    parts = noise(0, train), noise(train, val), noise(train + val, val)
    return ImageSplits(*parts, classes=tuple(f"class {i}" for i in range(num_classes)))


SOURCES: dict[str, Callable[..., ImageSplits]] = {
    "digits": digits,
    "folder": folder,
    "mnist": partial(published, "MNIST"),
    "fashion_mnist": partial(published, "FashionMNIST"),
    "cifar10": partial(published, "CIFAR10"),
    "cifar100": partial(published, "CIFAR100"),
    "synthetic": synthetic,
}


class ImageData(ImageModule):
    """The images of one source.

    Args:
        source: digits, mnist, fashion_mnist, cifar10, cifar100, folder or synthetic.
        options: keyword arguments of that source, such as path for folder.
        batch_size: training images per device and forward pass, the micro-batch.
        eval_batch_size: images per step and device in validation, test and prediction.
        image_size: side of the square to which the images of a folder are cropped and resized, or
            [height, width].
        smallest_crop: smallest share of an image's area in a random crop; for folders.
        channels: number per image: 1 for grey, 3 for RGB, 4 for RGB and alpha, or as many as the
            TIFF or .npy files of a folder have. If unset, 3, or those of the images in memory.
        decoder: where a folder's JPEG files are decoded, cpu or gpu. If unset, gpu if there are too
            few cores and the GPU has JPEG engines.
        sampler: balanced draws each class as often as another, with replacement; unset: each image
            once in an epoch.
        check: whether a folder's files are checked now, before training, or later, while it runs.
        compile_augmentation: whether compiled code augments images that are kept in GPU memory;
            unset: in long runs.
        augmentation: the settings of Augmentation, in augment.py.
    """

    # A resume compares the content of the images instead.
    may_change: ClassVar[frozenset[str]] = ImageModule.may_change | {"source", "options"}

    def __init__(
        self,
        source: str = "digits",
        options: dict[str, Any] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        image_size: int | list[int] = 224,
        channels: int | None = None,
        smallest_crop: float = 0.25,
        decoder: Literal["cpu", "gpu"] | None = None,
        sampler: Literal["balanced"] | None = None,
        check: Literal["now", "later"] = "now",
        compile_augmentation: bool | None = None,
        **augmentation: Any,
    ) -> None:
        self.augmentation = Augmentation(**augmentation)
        with checked(check):
            images = load_source(SOURCES, source, options or {}, channels=channels)
        sizes = batch_size, eval_batch_size, image_size, smallest_crop
        flip = self.augmentation.flip
        super().__init__(
            images, source, *sizes, flip, decoder, channels, sampler, compile_augmentation
        )

    def augment(self, batch: ImageBatch, uniforms: Uniforms) -> ImageBatch:
        """Return the augmented training images. Files were already cropped when they were read."""
        augmentation = self.augmentation.after_cropping() if self.are_files else self.augmentation
        return augmentation(batch, uniforms, self.batch_size, self.compiles)
