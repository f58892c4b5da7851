"""A source or an augmentation of one's own: what is wrong with it is said before training."""

import json

import numpy as np
import pytest
import torch
from digit_files import write_digits

from {{ cookiecutter.__package_name }}.augment import Augmentation
from {{ cookiecutter.__package_name }}.data import SOURCES, ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import data_with_flags
from {{ cookiecutter.__package_name }}.engine.data import resident
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.batch import (
    ImageBatch,
    in_memory,
)
from {{ cookiecutter.__package_name }}.engine.images.splits import ImageSplits

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (60, 16, 20, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3
NAMES = np.array(["ash", "fir", "oak"])[LABELS]
SHORT = ("--config", "configs/digits.yaml", "--trainer.max_steps", "2", "--data.batch_size=16")


def splits_of(pixels=PIXELS, labels=LABELS, classes=("ash", "fir", "oak")) -> ImageSplits:
    part = in_memory(pixels, labels)
    return ImageSplits(part, part, part, classes=classes)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (PIXELS / 255, r"float64, 0.0 to 1.0; expected uint8, 0 to 255, such as \(pixels \* 255\)"),
        (PIXELS.astype(np.float32), r"float32, 0.0 to 255.0; .* such as pixels.round\(\).astype"),
        (PIXELS.astype(int), r"int64, 0 to 255; expected uint8.* such as pixels.astype\(np.uint8"),
        (PIXELS.astype(np.uint16) * 100, r"uint16, 0 to 25500; .* \(pixels \* 0.01\).round\(\)"),
        (PIXELS / 127.5 - 1, r"float64, -1.0 to 1.0; .*\(\(pixels \+ 1\) \* 127.5\).round\(\)"),
        (torch.rand(60, 8, 8, 3), r"float32, .* \(pixels \* 255\).round\(\).to\(torch.uint8\)"),
        (PIXELS > 99, r"bool, False to True; .* such as \(pixels \* 255\).astype\(np.uint8\)"),
        (np.full((60, 8, 8, 3), np.nan), "float64, nan to nan; expected uint8, 0 to 255"),
        (PIXELS.transpose(0, 3, 1, 2), r"\(60, 3, 16, 20\), .* pixels.transpose\(0, 2, 3, 1\)"),
        (torch.zeros(60, 1, 8, 8, dtype=torch.uint8), r"\(60, 1, 8, 8\), .* pixels.movedim"),
        (PIXELS[..., 0], r"shape \(60, 16, 20\); expected \(n, height, .* pixels\[\.\.\., None\]"),
        (PIXELS.reshape(60, -1), r"shape \(60, 960\); expected .* pixels.reshape\(n, height"),
        ([PIXELS[0], PIXELS[1, :9]], "differ in shape; expected one array"),
        (None, "pixels are NoneType; expected one array"),
    ],
)
def test_pixels_that_are_not_uint8_images_are_refused_with_the_fix(pixels, said):
    with pytest.raises(UserError, match=said):
        in_memory(pixels, LABELS)


@pytest.mark.parametrize(
    "shape", [(16, 16, 12), (1, 1, 200), (1, 1000, 12), (3, 3, 12), (3, 5, 3), (28, 28, 1)]
)
def test_images_of_any_number_of_channels_and_low_images_are_taken(shape):
    pixels = RANDOM.integers(0, 256, (60, *shape), dtype=np.uint8)
    images = splits_of(pixels).train.images
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels)
    assert np.shares_memory(images.numpy(), pixels)


def test_a_reversed_axis_such_as_that_of_bgr_is_taken():
    images = in_memory(PIXELS[..., ::-1], LABELS).images
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), PIXELS[..., ::-1])


@pytest.mark.parametrize("labels", [LABELS[5:], LABELS[:0], np.eye(3)[LABELS[5:]]])
def test_as_many_labels_as_images_are_needed(labels):
    with pytest.raises(UserError, match=f"pixels of 60 images and labels of {len(labels)}; exp"):
        in_memory(PIXELS, labels)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (NAMES, "abc", "labels are text, such as 'ash'; expected numbers.* np.unique"),
        (NAMES.astype(object), "abc", "labels are text, such as 'ash'; expected numbers"),
        (LABELS + 1, "abc", r"train are 1 to 3, .* names 3 \(a, b, c\); expected 0 to 2: .* - 1"),
        (LABELS, "ab", r"train are 0 to 2, and .* names 2 \(a, b\); expected 0 to 1: name each"),
        (LABELS - 1, "abc", "train are -1 to 1, .* expected 0 to 2"),
        (LABELS, "", "train are 0 to 2, .* names none; expected a name for each class"),
        (LABELS.astype(float), "abc", r"0.0 to 2.0, floating .* expected whole .*np.int64.*=\(\)"),
        (LABELS[:, None], "abc", r"shape \(60, 1\) and are 0.0 to 2.0; expected 1 where"),
        (np.eye(3)[LABELS], "abcd", r"float32 \(60, 3\), .* names 4 .* expected a column for each"),
        (np.where(LABELS, 0.5, np.nan), "", "20 of 60 labels are NaN or infinite; expected"),
        (np.zeros((60, 1, 1)), "abc", r"shape \(60, 1, 1\); expected \(n,\), one for each image"),
    ],
)
def test_labels_that_do_not_fit_the_classes_are_refused_with_the_fix(labels, classes, said):
    with pytest.raises(UserError, match=said):
        splits_of(labels=labels, classes=tuple(classes))


@pytest.mark.parametrize(
    ("labels", "classes", "objective"),
    [
        (LABELS.tolist(), "abc", "classes"),
        (LABELS.astype(np.uint8), "abcd", "classes"),  # one class may have no image
        (LABELS > 0, "ab", "classes"),
        (np.eye(3, dtype=int)[LABELS], "abc", "labels"),
        (LABELS / 7, "", "numbers"),
    ],
)
def test_the_labels_say_what_is_learned(labels, classes, objective):
    assert splits_of(labels=labels, classes=tuple(classes)).objective == objective


@pytest.mark.parametrize("classes", [(0, 1, 2), np.unique(NAMES), tuple(np.unique(NAMES)), "abc"])
def test_the_names_of_classes_are_plain_text(classes):
    with pytest.raises(UserError, match=r"classes are .*; expected a tuple of str, such as tuple"):
        splits_of(classes=classes)
    splits_of(classes=tuple(map(str, classes)))


def test_a_split_that_is_no_images_is_refused():
    part, names = in_memory(PIXELS, LABELS), ("ash", "fir", "oak")
    said = r"ImageSplits: val is of the type {}; expected what in_memory\(pixels, labels\) returns"
    with pytest.raises(UserError, match=said.format("tuple")):
        ImageSplits(part, (PIXELS, LABELS), part, classes=names)
    with pytest.raises(UserError, match=said.format("NoneType")):
        ImageSplits(part, None, part, classes=names)
    floats = part._replace(images=part.images.float())
    with pytest.raises(UserError, match=r"images of test are float32 \(60, 3, 16, 20\); expected"):
        ImageSplits(part, part, floats, classes=names)
    grey = in_memory(PIXELS[..., :1], LABELS)
    with pytest.raises(UserError, match="'mine' have 1 and 3 channels; expected the same number"):
        data_of(ImageSplits(part, part, grey, classes=names))


def data_of(splits: ImageSplits, **settings) -> ImageData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "mine", lambda: splits)
        return ImageData("mine", **settings)


def test_a_source_without_a_test_split_trains_and_its_evaluation_says_so(
    call, monkeypatch, tmp_path, capsys
):
    part = in_memory(PIXELS, LABELS)
    splits = ImageSplits(part, part, classes=("ash", "fir", "oak"))
    monkeypatch.setitem(SOURCES, "mine", lambda: splits)
    assert call("fit", *SHORT, "--data.source=mine", folder=tmp_path) == 0
    assert json.loads((tmp_path / "run.json").read_text())["data"]["rows"]["test"] == 0
    assert call("test", "--run", str(tmp_path)) == 2
    assert "have no test split to evaluate: add one" in capsys.readouterr().err


def as_floats(batch: ImageBatch) -> ImageBatch:
    return batch._replace(images=batch.images.float() / 255)


BROKEN = {
    "floats": (as_floats, r"returns `images` as float32 \(.*; expected uint8 \(.*, as in eval"),
    "grey": (
        lambda batch: batch._replace(images=batch.images[:, :1]),
        "returns images of 1 channels; expected 3, as in evaluation",
    ),
    "flat": (
        lambda batch: batch._replace(images=batch.images.flatten(1)),
        r"returns `images` as uint8 \(.*; expected uint8",
    ),
    "fewer": (
        lambda batch: batch._replace(images=batch.images[1:]),
        r"returns `images` of the shape .*; expected \d+ rows",
    ),
    "tensor": (
        lambda batch: batch.images,
        r"returns the type Tensor; expected ImageBatch, such as batch._replace\(images=...\)",
    ),
    "nothing": (lambda batch: None, "returns the type NoneType; expected ImageBatch"),
    "array": (
        lambda batch: batch._replace(labels=batch.labels.numpy()),
        "returns `labels` of the type ndarray; expected a tensor",
    ),
}


@pytest.fixture
def digit_table(tmp_path):
    write_digits(tmp_path)
    return tmp_path / "classes.csv"


@pytest.mark.parametrize("loader", ["resident", "mapped", "streaming"])
@pytest.mark.parametrize("broken", BROKEN)
def test_an_augmentation_that_breaks_its_batch_is_refused(broken, loader, digit_table, monkeypatch):
    change, said = BROKEN[broken]
    usual = Augmentation.__call__
    monkeypatch.setattr(Augmentation, "__call__", lambda *given: change(usual(*given)))
    options = {"path": str(digit_table)}
    data = data_with_flags(ImageData)(
        source="folder", options=options, loader=loader, image_size=8, batch_size=20
    )
    with pytest.raises(UserError, match=rf"ImageData.augment\(\) {said}.*: change augment.py"):
        next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))  # which is not augmented


def test_only_the_first_batch_is_checked(monkeypatch):
    data, checked = ImageData("digits", batch_size=20), []
    check = ImageData.check_augmented
    monkeypatch.setattr(
        ImageData, "check_augmented", lambda *given: checked.append(given) or check(*given)
    )
    monkeypatch.setattr(resident, "AT_ONCE", 1)  # one batch at a time
    loader = data.train_dataloader()
    assert len([*loader, *loader]) == 2 * (1077 // 20) and len(checked) == 1


def test_training_at_another_size_is_noted_and_goes_on(call, monkeypatch, capsys):
    def halved(augmentation, batch, *_) -> ImageBatch:
        return batch._replace(images=batch.images[:, :, ::2])

    monkeypatch.setattr(Augmentation, "__call__", halved)
    assert call("fit", *SHORT) == 0
    note = "augment.py changes the training images from 8 by 8 to 4 by 8 pixels"
    assert capsys.readouterr().out.count(note) == 1


def test_the_command_line_says_it_in_one_line(call, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "mine", lambda: splits_of(PIXELS / 255))
    assert call("fit", *SHORT, "--data.source=mine") == 2
    *_, said = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("error: in_memory(): pixels are float64, 0.0")
    monkeypatch.setattr(Augmentation, "__call__", lambda self, batch, *_: as_floats(batch))
    assert call("fit", *SHORT) == 2
    assert "error: ImageData.augment() returns `images` as float32" in capsys.readouterr().err
