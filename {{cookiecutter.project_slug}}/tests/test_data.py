"""The sources return the expected splits, and the splits become batches."""

import pytest
import torch

from {{ cookiecutter.__package_name }}.data import ImageData, digits, synthetic


def test_digits_are_divided_by_class_and_never_overlap():
    splits = digits()
    assert splits.rows == {"train": 1077, "val": 360, "test": 360}
    for part in (splits.train, splits.val, splits.test):
        shares = part.labels.bincount() / len(part.labels)
        assert (shares - 0.1).abs().max() < 0.01
    assert splits.train.images.dtype == torch.uint8 and splits.train.images.max() == 255


def test_synthetic_images_are_the_same_each_time_and_their_colour_depends_on_the_class():
    splits, again = synthetic(8, 64, 16, num_classes=4), synthetic(8, 64, 16, num_classes=4)
    assert splits.fingerprint == again.fingerprint
    means = splits.train.images.float().mean((2, 3))
    groups = torch.stack([means[splits.train.labels == k].mean(0) for k in range(4)])
    assert torch.pdist(groups).min() > 5


def test_batches_are_uint8_images_with_labels_and_rows():
    data = ImageData("digits", batch_size=32, eval_batch_size=50)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (32, 3, 8, 8) and batch.images.dtype == torch.uint8
    assert torch.equal(batch.labels, data.splits.train.labels[batch.row])
    rows = torch.cat([batch.row for batch in data.val_dataloader()])
    assert torch.equal(rows[rows >= 0], torch.arange(360))  # each row once, in order


@pytest.mark.parametrize("settings", [{"crop_padding": 1}, {"flip": True}, {"cutout": 3}])
def test_training_images_are_augmented_and_evaluated_ones_are_not(settings):
    data = ImageData("digits", batch_size=360, eval_batch_size=360, **settings)
    batch = next(iter(data.train_dataloader()))
    assert (batch.images != data.splits.train.images[batch.row]).any()
    (batch,) = data.val_dataloader()
    assert torch.equal(batch.images, data.splits.val.images)
