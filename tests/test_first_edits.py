"""The first things that a student does to a project, each a patch of one file: it trains, and the
project's tests stay green."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TEMPLATE, execute

BIRDS = "source=birds options.path=birds.csv batch_size=8 crop_padding=0 image_size=16"

# A patch in first_edits/, and the flags that use what is new in it.
EDITS = {
    "a_new_network": ["--model.network=wide_cnn"],
    "focal_loss": ["--model.gamma=1.5"],
    "a_table_of_ones_own": [f"--data.{setting}" for setting in BIRDS.split()],
    "label_smoothing_in_validation": ["--model.label_smoothing=0.9"],
    "mixup_with_one_weight_a_batch": ["--data.mixup=0.4"],
    "a_backbone_frozen_for_five_epochs": ["--model.freeze_backbone=true", "--trainer.max_epochs=7"],
    "f1_and_the_best_by_it": [],
    "a_confusion_matrix": [],
}


def draw_birds(folder: Path) -> Iterator[str]:
    """Draw 48 images in two colours and yield the lines of a table of them."""
    yield "photo,species,fold"
    for i in range(48):
        colour = bytes([5 * i, 255 * (i % 2), 0])
        (folder / f"{i}.ppm").write_bytes(b"P6 16 16 255\n" + 256 * colour)
        yield f"{i}.ppm,{('jay', 'wren')[i % 2]},{('train', 'train', 'val', 'test')[i // 2 % 4]}"


@pytest.mark.parametrize("name", EDITS)
def test_a_first_edit_trains_and_the_tests_stay_green(name, bake, python, in_environment):
    project = bake()
    patch = TEMPLATE / "tests" / "first_edits" / f"{name}.patch"
    files = [line for line in patch.read_text().splitlines() if line.startswith("+++ ")]
    assert len(files) == 1
    applied = execute("git", "apply", patch, cwd=project.path)
    assert applied.returncode == 0, applied.stdout
    (project.path / "birds.csv").write_text("\n".join(draw_birds(project.path)))
    here = {"cwd": project.path, "PYTHONPATH": str(project.path / "src")}
    run = project.path / "runs" / "one"
    recipe = ["--config", "configs/digits.yaml", "--trainer.max_epochs=2", *EDITS[name]]
    every = "--trainer.log_every_n_steps=1"
    status, said = python("-m", "my_project", "fit", *recipe, every, **here, RUN_FOLDER=str(run))
    assert status == 0, said
    is_used(name, run)
    if name == "focal_loss":  # a loss's setting is compared as any other is
        other = ["--run", str(run), "--trainer.max_epochs=3", "--model.gamma=3"]
        status, said = python("-m", "my_project", "fit", *other, **here)
        assert status == 2 and "model.gamma" in said and "1.5" in said, said
    status, said = python("-m", "pytest", "--quiet", **here)
    assert status == 0, said
    for command in ("check", "format --check"):
        done = project.run("ruff", *command.split(), "src", env=in_environment)
        assert done.returncode == 0, done.stdout


def is_used(name: str, run: Path) -> None:
    """See in the run's folder that what is new has been used."""
    record = json.loads((run / "run.json").read_text())
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    match name:
        case "a_new_network":
            assert record["config"]["model"]["network"] == "wide_cnn"
        case "a_table_of_ones_own":
            assert record["data"]["rows"] == {"train": 24, "val": 12, "test": 12}
        case "label_smoothing_in_validation":  # nine tenths of the target are spread over ten
            assert float(rows[-1]["val/loss"]) > 1.9
        case "mixup_with_one_weight_a_batch":
            assert record["config"]["data"]["mixup"] == 0.4
        case "a_backbone_frozen_for_five_epochs":
            scores = {row["epoch"]: float(row["val/accuracy"]) for row in rows if row["val/loss"]}
            assert scores["4"] < 0.9 < scores["6"]
        case "f1_and_the_best_by_it":
            assert 0 < record["results"]["best val/f1"] <= 1
        case "a_confusion_matrix":
            assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
