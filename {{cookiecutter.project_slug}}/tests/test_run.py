"""Whole runs through the command line: their record, their metrics, their end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import matplotlib.image
import pytest
import torch
from torch._dynamo.utils import counters

import {{ cookiecutter.__package_name }}
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.run import record as records
from {{ cookiecutter.__package_name }}.run.folder import project_root
from {{ cookiecutter.__package_name }}.run.tracking import (
    MetricsCSV,
    read_metrics,
)

PACKAGE = {{ cookiecutter.__package_name }}.__name__
DIGITS = ("--config", "configs/digits.yaml")
SHORT = (*DIGITS, "--trainer.max_epochs", "2")


def read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_run_learns_and_leaves_its_folder(trained):
    record = read(trained)
    assert record["state"] == "finished"
    assert record["results"]["best val/accuracy"] > 0.9
    assert record["results"]["images_per_second"] > 0
    for picture in ("curves.png", "predictions.png"):
        pixels = matplotlib.image.imread(trained / picture)
        assert pixels.shape[0] > 300 and pixels.std() > 0.05
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_the_record_holds_what_repeating_needs(trained):
    record, root = read(trained), project_root()
    assert record["command"][:4] == ["python", "-m", PACKAGE, "fit"]
    assert record["seed"] == record["config"]["seed_everything"] == 0
    assert record["config"]["trainer"]["max_epochs"] == 4
    assert 0 < record["seconds"]["fit"] <= record["seconds"]["total"]
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["locks"]) == {path.name for path in root.glob("*.lock")}
    assert len(record["data"]["fingerprint"]) == 64
    assert record["compile"]["mode"] is None and record["compile"]["why"]
    assert record["hardware"]["cores"] >= 1
    assert (trained / "config.yaml").read_text().count("precision: ") == 1


def test_the_source_is_packed_whole_and_always_alike(trained, tmp_path):
    root = project_root()
    with zipfile.ZipFile(trained / "source.zip") as pack:
        names = set(pack.namelist())
        networks = next(name for name in names if name.endswith("/networks.py"))
        assert pack.read(networks) == (root / networks).read_bytes()
    assert {"pyproject.toml", "requirements.lock", "configs/digits.yaml"} <= names
    source = {path.relative_to(root).as_posix() for path in (root / "src").rglob("*.py")}
    assert source <= names
    assert not any(name.startswith((".git/", ".venv/", "runs/")) for name in names)
    again = records._pack_source(root, tmp_path / "source.zip")
    assert again["sha256"] == records._pack_source(root, tmp_path / "other.zip")["sha256"]


def test_the_metrics_hold_every_logged_step_once(trained):
    rows = read_metrics(trained / "metrics.csv")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["step"] for row in rows if "val/loss" in row] == [15, 31, 47, 63]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(4, 64, 5))
    assert [row["epoch"] for row in rows if "val/loss" in row] == [0, 1, 2, 3]


def test_the_test_images_are_scored_into_the_record(trained, call, capsys):
    assert call("test", "--run", str(trained)) == 0
    score = read(trained)["results"]["test/accuracy"]
    assert score > 0.9
    assert (score * 360) == pytest.approx(round(score * 360), abs=1e-3)
    assert f"{score:.2%}" in capsys.readouterr().out


def test_predictions_are_written_for_every_test_image(trained, call):
    assert call("predict", "--run", str(trained)) == 0
    lines = (trained / "predictions.csv").read_text().splitlines()
    assert lines[0] == "index,label,prediction,probability"
    assert len(lines) == 361


def test_a_checkpoint_loads_without_the_command_line(trained):
    path = trained / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in state)
    model = ImageClassifier.load_from_checkpoint(path, weights_only=True)
    assert records.digest(model.state_dict()) == records.digest(state)


def test_the_same_seed_gives_the_same_weights_and_another_others(call, tmp_path):
    digests = {}
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert call("fit", *SHORT, "--seed_everything", seed, folder=tmp_path / name) == 0
        digests[name] = read(tmp_path / name)["results"]["weights_sha256"]
    assert digests["a"] == digests["b"] != digests["c"]


def test_an_interrupted_run_resumes_to_the_same_end(call, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = (*DIGITS, "--trainer.max_epochs", "4")
    assert call("fit", *flags, folder=whole) == 0

    def interrupt(model: ImageClassifier) -> None:
        if model.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_epoch_end", interrupt)
        assert call("fit", *flags, folder=broken) == 130
    assert read(broken)["state"] == "interrupted"
    assert read(broken)["reason"] == "SIGINT"
    assert call("fit", "--run", str(broken)) == 0
    assert read(broken)["state"] == "finished"
    assert len(read(broken)["resumes"]) == 1
    for results in ("weights_sha256", "val/loss", "best val/accuracy", "steps"):
        assert read(broken)["results"][results] == read(whole)["results"][results]
    assert read_metrics(broken / "metrics.csv") == read_metrics(whole / "metrics.csv")


def test_resuming_a_finished_run_says_how_to_train_longer(trained, call, capsys):
    assert call("fit", "--run", str(trained)) == 2
    assert "--trainer.max_epochs" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_compiling_changes_neither_the_keys_nor_the_loss(call, tmp_path, capsys):
    flags = (*DIGITS, "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1")
    flags += ("--trainer.limit_train_batches", "2")
    counters.clear()
    states, losses = {}, {}
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        assert call("fit", *flags, "--model.compile", compiled, folder=folder) == 0
        states[compiled] = torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"]
        rows = read_metrics(folder / "metrics.csv")
        losses[compiled] = [row["train/loss"] for row in rows if "train/loss" in row]
    assert capsys.readouterr().out.count("first step compiles the network") == 1
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    assert read(tmp_path / "true")["compile"]["mode"] == mode
    assert counters["stats"]["unique_graphs"] == 2  # training and evaluation, for all batches
    assert states["true"].keys() == states["false"].keys()
    assert len(losses["true"]) == 4
    # Compiled dropout draws numbers of its own, and a GPU computes in bfloat16.
    assert losses["true"] == pytest.approx(losses["false"], rel=3e-2)


@pytest.mark.parametrize("config", sorted(Path("configs").glob("[!b]*.yaml")), ids=lambda c: c.stem)
def test_every_recipe_trains_two_steps(config, call, tmp_path):
    two_steps = ("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1")
    assert call("fit", "--config", str(config), *two_steps, folder=tmp_path) == 0
    assert read(tmp_path)["results"]["steps"] == 2


def test_two_processes_train_one_network(tmp_path):
    arguments = ["fit", *SHORT, "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    environment = {**os.environ, "RUN_FOLDER": str(tmp_path)}
    command = [sys.executable, "-m", PACKAGE, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    record = read(tmp_path)
    assert record["decisions"]["device"].startswith("2 x CPU")
    assert record["results"]["steps"] == 16  # half of one process's: each step takes two batches
    assert result.stdout.count("run folder") == 1
    assert record["results"]["val/accuracy"] * 360 == pytest.approx(
        round(record["results"]["val/accuracy"] * 360), abs=1e-3
    )


def test_a_terminated_run_says_so_and_exits_143(tmp_path):
    command = [sys.executable, "-m", PACKAGE, "fit", *DIGITS, "--trainer.max_epochs", "500"]
    environment = {**os.environ, "RUN_FOLDER": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        checkpoint = tmp_path / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 90
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 143, error
    assert "make resume" in error
    assert read(tmp_path)["state"] == "interrupted"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model.network", "resnet81"), "Known: small_cnn"),
        (("--data.source", "digit"), "Known: digits"),
        (("--data.batch_size", "5000"), "Set --data.batch_size to 1077 or less"),
        (("--trainer.devices", "nine"), "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(flags, message, call, capsys, tmp_path):
    assert call("fit", *DIGITS, *flags, folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert message in error
    assert not (tmp_path / "run.json").exists() or read(tmp_path)["state"] == "failed"


def test_evaluating_what_is_no_run_is_refused(call, capsys, tmp_path):
    assert call("test", "--run", str(tmp_path)) == 2
    assert "is no run" in capsys.readouterr().err


def test_metrics_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    log = MetricsCSV(tmp_path)
    for step in range(3):
        log.log_metrics({"train/loss": 1.0 / (step + 1), "epoch": 0}, step)
    log.log_metrics({"val/loss": 0.5, "epoch": 0}, 2)
    log.finalize("success")
    with log.path.open("a") as file:
        file.write("3,0,0.2")
    resumed = MetricsCSV(tmp_path)
    resumed.go_on_from(2)
    resumed.log_metrics({"train/loss": 0.25, "epoch": 1}, 2)
    resumed.finalize("success")
    assert [(row["step"], row["train/loss"]) for row in read_metrics(log.path)] == [
        (0, 1.0),
        (1, 0.5),
        (2, 0.25),
    ]
