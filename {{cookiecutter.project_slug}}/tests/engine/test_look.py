"""look shows the rows that training begins with."""

import sys
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import Project
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.paths import project_root
from {{ cookiecutter.__package_name }}.engine.tools import look
from {{ cookiecutter.__package_name }}.pictures import in_words
from {{ cookiecutter.__package_name }}.pictures import look as draw

RECIPE = project_root() / "configs" / "digits.yaml"


@pytest.fixture(autouse=True)
def no_words_of_pytest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["look"])  # Lightning warns of others


def looked(show, *flags: str, out=None) -> int:
    parts = ".classifier:ImageClassifier", ".data:ImageData"
    project = Project(package.__name__, *parts, look=show)
    return look.main(project, SimpleNamespace(config=RECIPE, out=out), list(flags))


def test_look_shows_the_first_rows_of_a_run_with_its_seed_and_augmentation(capsys):
    seen = []
    flags = "--seed_everything=3", "--data.batch_size=20", "--data.mixup=0.2", "--data.rotation=9"
    assert looked(lambda batch, data: seen.append(batch) or "rows", *flags) == 0
    data = ImageData(
        "digits", batch_size=20, crop_padding=1, mixup=0.2, rotation=9
    )  # as in the recipe
    data.flags = replace(data.flags, seed=3)
    first, second = islice(data.train_dataloader(), 2)
    assert capsys.readouterr().out.endswith("rows\n") and len(seen[0].row) == 32
    for shown, one, two in zip(seen[0], first, second, strict=True):
        assert torch.equal(shown, torch.cat([one, two])[:32])


def test_fewer_rows_than_a_batch_are_shown(tmp_path, capsys):
    few = "--data.source=synthetic", "--data.options={image_size: 8, train: 20, val: 9}"
    seen, out = [], tmp_path / "few.png"

    def show(batch, data) -> Figure:
        seen.append(sorted(batch.row.tolist()))
        return draw(batch, data)

    for size in ("--data.batch_size=64", "--data.global_batch_size=128"):
        assert looked(show, *few, size, out=out) == 0
        assert "20 training images: " in capsys.readouterr().out
    assert seen == [list(range(20))] * 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture_is_saved_where_look_says(channels, tmp_path, capsys):
    def show(batch, data) -> Figure:
        images = batch.images[:, :1].expand(-1, channels, -1, -1)
        return draw(batch._replace(images=images), data)

    out = tmp_path / "new" / "sheet.png"
    assert looked(show, "--data.cutmix=1", out=out) == 0
    assert str(out) in capsys.readouterr().out
    assert Image.open(out).size[0] > 1000


def test_a_project_without_look_is_told_how_to_add_it():
    with pytest.raises(UserError, match="Pass look= to main"):
        looked(None)


def test_labels_are_shown_by_name_or_as_numbers():
    names = ("cat", "dog", "owl")
    assert in_words(torch.tensor(1), names) == "dog"
    assert in_words(torch.tensor([1.0, 0.0, 1.0]), names) == "cat, owl"
    assert in_words(torch.zeros(3), names) == "none"
    assert in_words(torch.ones(3), names, most=11) == "cat, dog +1"
    assert in_words(torch.tensor(0.25), ()) == "0.25"
    assert in_words(torch.tensor(123456.0), ()) == "123456"
