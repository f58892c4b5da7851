"""Retraining a run from its own record: the same bits, or what differs and why."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.paths import project_root
from {{ cookiecutter.__package_name }}.engine.run.checkpoint_files import sha256
from {{ cookiecutter.__package_name }}.engine.run.digests import read_digests
from {{ cookiecutter.__package_name }}.engine.tools.reproduce import (
    check_one_run,
    compare,
    differences,
    not_as_locked,
)
from {{ cookiecutter.__package_name }}.engine.tools.reproduced_part import part_of


@pytest.fixture(scope="module")
def short(call, tmp_path_factory) -> Path:
    """A run of two epochs over the digits, stopped by --until and resumed once."""
    folder = tmp_path_factory.mktemp("short")
    flags = ("--config", "configs/digits.yaml", "--trainer.max_epochs", "2", "--until", "20")
    assert call("fit", *flags, folder=folder) == 0
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    assert call("fit", "--run", str(folder)) == 0
    return folder


def edit(archive: Path, ends: str, old: str, new: str) -> None:
    """Change one file of a recorded source, and its digest in the record."""
    with zipfile.ZipFile(archive) as pack:
        content = {name: pack.read(name) for name in pack.namelist()}
    (name,) = [name for name in content if name.endswith(ends)]
    assert old in content[name].decode()
    content[name] = content[name].decode().replace(old, new).encode()
    with zipfile.ZipFile(archive, "w") as pack:
        for name in content:
            pack.writestr(name, content[name])
    record = archive.parent / "run.json"
    known = json.loads(record.read_text())
    known["source"]["sha256"], known["resumes"] = sha256(archive), []
    record.write_text(json.dumps(known))


def test_a_copied_run_is_retrained_from_its_own_source(short, call, tmp_path, capfd):
    run = Path(shutil.copytree(short, tmp_path / "copied"))
    assert call("reproduce", "--run", str(run)) == 0
    said = capfd.readouterr().out
    assert "identical: 6 losses and " in said and "train again" not in said
    again, root = run / "reproduce" / "source", project_root()
    for path in (again / "src").rglob("*.py"):
        assert path.read_bytes() == (root / path.relative_to(again)).read_bytes()
    assert read_digests(run / "reproduce" / "run") == read_digests(run)


def test_a_changed_source_shows_the_first_step_and_tensor_that_differ(short, call, tmp_path, capfd):
    run = Path(shutil.copytree(short, tmp_path / "edited"))
    edit(run / "source.zip", "/engine/run/numerics.py", "+ count) * 4096", "+ count) * 4097")
    assert call("reproduce", "--run", str(run)) == 1
    said = capfd.readouterr().out
    assert "first step    4: its loss was" in said and "first tensor  network." in said
    assert "environment   no difference" in said


def test_until_compares_only_the_steps_before(short, call, tmp_path, capfd):
    assert (
        call("reproduce", "--run", str(short), "--until", "10", "--into", str(tmp_path / "quick"))
        == 0
    )
    said = capfd.readouterr()
    assert "identical: 2 losses, up to step 10" in said.out and "make resume" not in said.err
    assert json.loads((tmp_path / "quick/run/run.json").read_text())["reason"] == "--until 10"


DIGITS = ("--config", "configs/digits.yaml", "--trainer.max_epochs", "500")
STOPPING = ("--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",)
STOPPING += ("--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=1")
STOPPING += ("--trainer.callbacks.min_delta=9",)
TIMER = ("--trainer.callbacks+=lightning.pytorch.callbacks.Timer",)
TIMER += ("--trainer.callbacks.duration=00:00:00:01",)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--trainer.max_time", "00:00:00:01"), "tensors, up to step"),
        (TIMER, "tensors, up to step"),
        (STOPPING, "tensors, bit for bit"),
        (("--until", "19"), "tensors, up to step 19,"),
    ],
    ids=["max_time", "timer", "early stopping", "until"],
)
def test_a_run_that_ended_early_is_repeated_up_to_its_last_step(flags, part, call, tmp_path, capfd):
    assert call("fit", *DIGITS, *flags, folder=tmp_path) == 0
    assert call("reproduce", "--run", str(tmp_path)) == 0
    (said,) = re.findall("identical: .*", capfd.readouterr().out)
    assert part in said
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt")
    again = torch.load(tmp_path / "reproduce" / "run" / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == again["global_step"] > 0


def test_an_unfinished_run_that_gives_other_weights_is_different(call, tmp_path, capfd):
    assert call("fit", *DIGITS, "--until", "7", folder=tmp_path) == 0
    edit(tmp_path / "source.zip", "/engine/run/numerics.py", "+ count) * 4096", "+ count) * 4097")
    assert call("reproduce", "--run", str(tmp_path)) == 1
    assert "first tensor  network." in capfd.readouterr().out


def test_without_a_checkpoint_the_losses_are_compared(short, tmp_path):
    run = Path(shutil.copytree(short, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    killed = json.loads((run / "run.json").read_text()) | {"state": "running", "results": {}}
    part = part_of(run, killed, None)
    assert part.until == 30 and not part.expected["weights"]
    (run / "metrics.csv").unlink()
    with pytest.raises(UserError, match="the run ended before its first"):
        part_of(run, killed, None)


def test_a_folder_with_other_files_is_not_touched(short, call, tmp_path, capsys):
    thesis = tmp_path / "thesis.txt"
    thesis.touch()
    assert call("reproduce", "--run", str(short), "--into", str(tmp_path)) == 2
    assert thesis.exists()
    assert "contains thesis.txt. Choose a new folder" in capsys.readouterr().err


def test_damaged_data_are_reported_as_different(call, tmp_path, capfd):
    draw = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    flags = ("--data.source=folder", f"--data.options.path={tmp_path / 'images'}")
    flags += ("--data.image_size=16", "--data.workers=0", "--data.batch_size=8")
    flags += ("--model.network=small_cnn", "--trainer.max_epochs=1")
    assert call("fit", *flags, folder=tmp_path / "run") == 0
    file = tmp_path / "images" / "dark" / "7.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert call("reproduce", "--run", str(tmp_path / "run")) == 2
    assert "data: changed and unreadable" in capfd.readouterr().out
    Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    assert call("reproduce", "--run", str(tmp_path / "run")) == 2
    assert "data: changed since the run was trained" in capfd.readouterr().out


def test_a_run_that_can_not_be_retrained_is_refused(short, call, tmp_path, capsys):
    run = Path(shutil.copytree(short, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record["resumes"][0]["config"]["model"]["learning_rate"] = 0.5
    with pytest.raises(UserError, match=r"after step 20: model.learning_rate 0.1 -> 0.5.*--until"):
        check_one_run(run, record, until=None)
    check_one_run(run, record, until=20)
    (run / "source.zip").write_bytes(b"other")
    assert call("reproduce", "--run", str(run)) == 2
    assert "has changed since the run" in capsys.readouterr().err


def test_differing_versions_hardware_and_switches_are_listed(short):
    then = json.loads((short / "run.json").read_text())
    assert list(differences(then, then)) == []
    now = json.loads(json.dumps(then))
    now["versions"]["torch"] = "2.12.0"
    now["numerics"]["threads"] = 99
    now["hardware"]["cpu"] = "another"
    assert [line.split(" was ")[0] for line in differences(then, now)] == [
        "versions: torch",
        "hardware: cpu",
        "numerics: threads",
    ]


def test_installed_packages_are_compared_with_the_recorded_lock(tmp_path):
    (tmp_path / "some.lock").write_text("numpy==1.0 \\\n    --hash=sha256:0\nabsent==3\n")
    (difference,) = not_as_locked(tmp_path)
    assert difference.startswith("numpy was locked as 1.0, is 2.")


def test_the_exit_status_depends_on_the_environment(capsys):
    one = {"losses": {"4": (0.5).hex()}, "weights": {"a": "1", "b": "2"}, "optimizer": {}}
    other = {**one, "weights": {"a": "1", "b": "3"}}
    assert compare(one, one, None, ["versions: torch"]) == 0
    assert compare(one, other, None, []) == 1
    assert compare(one, other, None, ["versions: torch"]) == 2
    assert "first tensor  b (weights); 1 of 2 differ" in capsys.readouterr().out
