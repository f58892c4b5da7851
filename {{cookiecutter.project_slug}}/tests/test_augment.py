"""Augmentation uses each image's own random numbers, in any batch."""

import pytest
import torch

from {{ cookiecutter.__package_name }}.augment import (
    Augmentation,
    cut_out,
    shift_and_flip,
)
from {{ cookiecutter.__package_name }}.engine.data import order
from {{ cookiecutter.__package_name }}.engine.images.batch import ImageBatch

EVERYTHING = Augmentation(crop_padding=2, flip=True, cutout=4, mixup=0.4, cutmix=1.0)


def uniforms(n: int, k: int) -> torch.Tensor:
    return order.uniforms(0, 0, torch.arange(n), k)


def augmented(augmentation: Augmentation, images: torch.Tensor, batch_size: int) -> ImageBatch:
    row = torch.arange(len(images))
    batch = ImageBatch(images, row % 10, row)
    return augmentation(batch, lambda k: uniforms(len(images), k), batch_size)


def test_images_are_shifted_by_their_uniforms_and_filled_with_black():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(1, 3, 3, 3)
    down_right = shift_and_flip(image, torch.tensor([[0.99, 0.99, 0.9]]), crop_padding=1, flip=True)
    expected = torch.tensor([[5, 6, 0], [8, 9, 0], [0, 0, 0]], dtype=torch.uint8)
    assert torch.equal(down_right[0, 0], expected)
    mirrored = shift_and_flip(image, torch.tensor([[0.5, 0.5, 0.1]]), crop_padding=1, flip=True)
    assert torch.equal(mirrored, image.flip(-1))


def test_cutout_sets_one_square_to_zero():
    images = torch.full((200, 3, 12, 12), 9, dtype=torch.uint8)
    black = cut_out(images, uniforms(200, 2), 4) == 0
    assert torch.equal(black[:, 0], black[:, 2])
    rows, columns = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert torch.equal(black[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == 4 and black[:, 0].any(0).all()


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(mixup=1.0)])
def test_augmentation_keeps_shape_and_type_and_changes_most_images(augmentation):
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)
    batch = augmented(augmentation, images, 30)
    assert batch.images.shape == images.shape and batch.images.dtype == torch.uint8
    assert (batch.images != images).flatten(1).any(1).float().mean() > 0.8


def test_several_batches_at_once_are_augmented_as_one_by_one():
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)
    together = augmented(EVERYTHING, images, 20)
    first = augmented(EVERYTHING, images[:20], 20)
    for part, same in zip(together, first, strict=True):
        assert torch.equal(part[:20], same)


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_images_have_the_weights_that_the_loss_uses(mixup, cutmix):
    images = torch.arange(0, 240, 4).byte()[:, None, None, None].expand(60, 3, 16, 16)
    row = torch.arange(60)
    augment = Augmentation(mixup=mixup, cutmix=cutmix)
    mixed = augment(ImageBatch(images, row, row), lambda k: uniforms(60, k), 60)
    own, other = (part.float().mean((1, 2, 3)) for part in (images, images[mixed.mixed_labels]))
    expected = mixed.mix_weights * own + (1 - mixed.mix_weights) * other
    assert (mixed.images.float().mean((1, 2, 3)) - expected).abs().max() < 0.51  # rounded pixels
    assert torch.equal(mixed.labels, row) and not torch.equal(mixed.images, images)


def test_without_settings_nothing_is_augmented():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augmented(Augmentation(), images, 4).images, images)
