"""For the test images, predict gives what evaluate wrote, whatever the images and the loader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicted import predict_as_in_the_evaluation, rows_of
from served import list_of_test_files
from sklearn.datasets import load_sample_images

from {{ cookiecutter.__package_name }}.data import ImageData, digits
from {{ cookiecutter.__package_name }}.engine.cli.project import data_with_flags

WIDE = [16, 40]
ORIENTATION = 0x0112  # of EXIF
TURNED = 6  # by 90 degrees


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts of two photographs, one a class: of any size and shape, turned, grey, transparent.

    Beside the classes are tables of the same files for the other objectives.
    """
    root, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    lines: dict[str, list[str]] = {"labels": [], "numbers": []}
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / "images" / name).mkdir(parents=True)
        for i in range(24):
            height, width = draw.integers(20, 400, 2)
            top, left = draw.integers(0, 426 - height), draw.integers(0, 640 - width)
            image = Image.fromarray(pixels[top : top + height, left : left + width])
            file = root / "images" / name / f"{i}.{'jpg' if i % 4 < 2 else 'png'}"
            exif = Image.Exif()
            if i % 4 == 1:
                exif[ORIENTATION] = TURNED
            if i % 4 == 3:
                image.putalpha(image.convert("L"))
            (image.convert("L") if i % 4 == 2 else image).save(file, exif=exif)
            split = "train" if i < 16 else ("val", "test")[i % 2]
            shape, turned = "tall" if height > width else "wide", ";turned" * (i % 4 == 1)
            lines["labels"].append(f"{file},{name};{shape}{turned},{split}")
            lines["numbers"].append(f"{file},{height / width:.3f},{split}")
    for objective, each in lines.items():
        (root / f"{objective}.csv").write_text("\n".join(["path,label,split", *each]))
    return root


@pytest.mark.parametrize("loader", ["streaming", "mapped", "resident"])
@pytest.mark.parametrize(
    ("place", "channels"),
    [("images", 1), ("images", 3), ("images", 4), ("labels.csv", 3), ("numbers.csv", 3)],
)
def test_photographs(place, channels, loader, photographs, call, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"path": str(photographs / place)}
    if place != "images":
        options["objective"] = Path(place).stem
    settings = {"source": "folder", "channels": channels, "image_size": WIDE, "loader": loader}
    data = data_with_flags(ImageData)(options=options, **settings)
    flags = [f"--data.{name}={value}" for name, value in settings.items()]
    flags += [f"--data.options.{name}={value}" for name, value in options.items()]
    flags += ["--data.workers=1", "--data.batch_size=8", "--data.eval_batch_size=5"]
    flags += ["--trainer.max_epochs=2", "--model.learning_rate=0.01"]
    assert call("fit", *flags, folder=tmp_path) == 0
    assert call("test", "--run", str(tmp_path)) == 0
    predict_as_in_the_evaluation(call, tmp_path, list_of_test_files(data, tmp_path / "files.txt"))
    rows = rows_of(tmp_path / "predictions.csv")
    assert len({tuple(row.values())[3:] for row in rows}) > len(rows) // 2  # they do differ
    root = photographs / place if place == "images" else photographs
    assert all((root / row["path"]).is_file() for row in rows)
    if place == "images":
        assert all(row["path"].split("/")[-2] == row["label"] for row in rows)


@pytest.mark.parametrize("loader", ["mapped", "resident"])
def test_digits(loader, call, tmp_path):
    for i, image in enumerate(digits().test.images):
        (tmp_path / "digits").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "digits" / f"{i}.png")
    flags = ["--config=configs/digits.yaml", f"--data.loader={loader}", "--trainer.max_epochs=1"]
    assert call("fit", *flags, folder=tmp_path / "run") == 0
    assert call("test", "--run", str(tmp_path / "run")) == 0
    predict_as_in_the_evaluation(call, tmp_path / "run", tmp_path / "digits")
