"""Lightning's callbacks and flags, as the table in docs/training.md promises."""

import json
import re
import shlex
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.utils.data import DataLoader, TensorDataset

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.refused import (
    CALLBACKS,
    PRECISIONS,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.batch import ImageBatch
from {{ cookiecutter.__package_name }}.engine.model.optimizers import (
    build_optimizer,
)
from {{ cookiecutter.__package_name }}.engine.model.single_values import (
    normalize_single_values,
)
from {{ cookiecutter.__package_name }}.engine.paths import project_root
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics

DIGITS = ("--config", "configs/digits.yaml")
TINY = (*DIGITS, "--data.source=synthetic", "--trainer.max_epochs=3", "--data.batch_size=32")
TINY += ("--data.options={image_size: 8, train: 96, val: 64}", "--model.schedule=constant")
TINY += ("--model.learning_rate=0.02", "--data.eval_batch_size=32")
EMA = ("--model.ema=0.7",)
SWA = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.02")
SWA += ("--trainer.callbacks.swa_epoch_start=1",)


def table() -> dict[str, str]:
    """Return flags and what happens, from the table."""
    text = (project_root() / "docs" / "training.md").read_text()
    section = text.split("## Lightning's callbacks and flags")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(--.+?)` \| (.+) \|$", section, re.MULTILINE))


@pytest.mark.parametrize("flags", table())
def test_what_the_table_promises(flags, call, tmp_path, capsys):
    refused = table()[flags].startswith("refused: ")
    assert call("fit", *TINY, *shlex.split(flags), folder=tmp_path) == (2 if refused else 0)
    if refused:
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: trainer.") and "\n" not in error
        assert not (tmp_path / "run.json").exists()
    else:
        assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


def test_the_table_lists_all_that_is_refused():
    refused = " ".join(flags for flags, what in table().items() if what.startswith("refused: "))
    names = {kind.__name__ for kind in CALLBACKS} | PRECISIONS.keys()
    assert {name for name in names if name in refused} == names
    assert refused.count("--trainer.callbacks+=") == len(CALLBACKS)


LIGHTNINGS = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")


def test_lightnings_average_is_that_of_the_flag(call, tmp_path, capsys):
    found = []
    for name, flags in (("flag", ["--model.ema=0.9"]), ("callback", LIGHTNINGS)):
        assert call("fit", *TINY, *flags, folder=tmp_path / name) == 0
        found.append(json.loads((tmp_path / name / "digests.json").read_text()))
    assert found[0] == found[1] and "is --model.ema 0.9 here" in capsys.readouterr().out
    config = next((tmp_path / "callback").glob("config*.yaml")).read_text()
    assert "ema: 0.9" in config and "EMAWeightAveraging" not in config


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--trainer.callbacks.update_every_n_steps=2", "with update_every_n_steps; the average"),
        ("--model.ema=0.5", "model.ema is 0.5, and trainer.callbacks has EMAWeightAveraging with"),
    ],
)
def test_what_the_average_lacks_is_refused(flag, why, call, tmp_path, capsys):
    assert call("fit", *TINY, *LIGHTNINGS, flag, folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert why in error and "\n" not in error and not (tmp_path / "run.json").exists()


def validations(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.csv") if "val/loss" in row]


@pytest.mark.parametrize("flags", [EMA, SWA], ids=["EMA", "SWA"])
def test_the_best_checkpoint_holds_what_was_measured(flags, call, tmp_path):
    assert call("fit", *TINY, *flags, folder=tmp_path) == 0
    rows = validations(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    best = max(rows, key=lambda row: row["val/accuracy"])
    assert call("validate", "--run", str(tmp_path)) == 0
    measured = json.loads((tmp_path / "run.json").read_text())["results"]
    assert measured["val/loss"] == pytest.approx(best["val/loss"], rel=1e-5)


def test_the_averaged_weights_are_in_the_last_checkpoint(call, tmp_path):
    assert call("fit", *TINY, *SWA, folder=tmp_path / "swa") == 0
    last = [torch.load(tmp_path / "swa" / "checkpoints" / "last.ckpt")["state_dict"]]
    assert call("fit", *TINY, folder=tmp_path / "plain") == 0
    last += [torch.load(tmp_path / "plain" / "checkpoints" / "last.ckpt")["state_dict"]]
    assert any(not torch.equal(*pair) for pair in zip(*(s.values() for s in last), strict=True))
    tracked = [value for name, value in last[0].items() if name.endswith("batches_tracked")]
    assert [int(count) for count in tracked] == [3] * len(tracked)  # of one pass over the data


class Late(WeightAveraging):
    """Averages the weights from a step on."""

    def __init__(self, start: int):
        super().__init__()
        self.start = start

    def should_update(self, step_idx=None, epoch_idx=None):
        return step_idx is not None and step_idx >= self.start


def test_weights_are_the_trained_ones_until_averaging_begins(call, tmp_path):
    assert call("fit", *TINY, "--trainer.max_steps=1", folder=tmp_path / "first") == 0
    pretrained = f"--model.pretrained={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}"
    late = f"--trainer.callbacks+={__name__}.Late", "--trainer.callbacks.start"
    cases = {"plain": (), "never": (late[0], f"{late[1]}=99"), "late": (late[0], f"{late[1]}=4")}
    weights, seen = {}, {}
    for name, more in cases.items():
        assert call("fit", *TINY, pretrained, *more, folder=tmp_path / name) == 0
        saved = torch.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
        weights[name] = list(saved.values())
        seen[name] = [row["val/loss"] for row in validations(tmp_path / name)]
    assert seen["never"] == seen["plain"]
    assert all(map(torch.equal, weights["never"], weights["plain"]))
    assert seen["late"][0] == seen["plain"][0] and seen["late"][2] != seen["plain"][2]


def test_averaged_weights_resume_exactly_also_from_within_a_validation(call, monkeypatch, tmp_path):
    assert call("fit", *TINY, *EMA, folder=tmp_path / "whole") == 0

    def interrupt(model: ImageClassifier, *_: object) -> None:
        if model.trainer.state.fn == "fit" and model.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_validation_batch_start", interrupt)
        assert call("fit", *TINY, *EMA, folder=tmp_path / "cut") == 130
    assert call("fit", "--run", str(tmp_path / "cut")) == 0
    records = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("whole", "cut")]
    digests = [record["results"]["weights_sha256"] for record in records]
    assert digests[0] == digests[1]
    assert validations(tmp_path / "whole") == validations(tmp_path / "cut")


def test_stochastic_averages_resume_exactly(call, monkeypatch, tmp_path):
    assert call("fit", *TINY, *SWA, folder=tmp_path / "whole") == 0
    whole = json.loads((tmp_path / "whole" / "run.json").read_text())["results"]
    begun = []

    def interrupt(model: ImageClassifier, *_: object) -> None:
        begun.append(model.global_step)
        if len(begun) == last:
            signal.raise_signal(signal.SIGINT)

    for last in (4, 10):  # epochs of three; the last epoch only measures statistics
        begun.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ImageClassifier, "on_train_batch_start", interrupt)
            assert call("fit", *TINY, *SWA, folder=tmp_path / f"{last}") == 130
        assert call("fit", "--run", str(tmp_path / f"{last}")) == 0
        cut = json.loads((tmp_path / f"{last}" / "run.json").read_text())["results"]
        assert cut["weights_sha256"] == whole["weights_sha256"]
        assert validations(tmp_path / f"{last}") == validations(tmp_path / "whole")


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_monitored_learning_rates_have_the_epoch_they_are_of(interval, call, tmp_path):
    monitor = ("--trainer.callbacks+=LearningRateMonitor", "--trainer.log_every_n_steps=2")
    monitor += (f"--trainer.callbacks.logging_interval={interval}",)
    assert call("fit", *TINY, *monitor, folder=tmp_path) == 0
    rows = read_metrics(tmp_path / "metrics.csv")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    rates = [row for row in rows if any(name.startswith("lr-") for name in row)]
    assert [row["epoch"] for row in rates] == [row["step"] // 3 for row in rates]
    assert interval == "step" or [row["step"] for row in rates] == [0, 3, 6]


def test_overfitting_repeats_the_same_rows():
    data = ImageData("digits", batch_size=16)
    seen = {}

    class Note(ImageClassifier):
        def training_step(self, batch, batch_idx):
            seen[self.trainer.overfit_batches][-1].append(batch.row.tolist())
            return super().training_step(batch, batch_idx)

        def on_train_epoch_start(self):
            seen[self.trainer.overfit_batches].append([])

    for overfits in (0, 2):
        seen[overfits] = []
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=3,
            overfit_batches=overfits,
            limit_train_batches=2,
            limit_val_batches=1,
            **quiet,
        )
        trainer.fit(Note(num_classes=10, small_images=True), datamodule=data)
    assert [len(epoch) for epoch in seen[2]] == [2, 2, 2]
    assert seen[2][0] == seen[2][1] == seen[2][2] == seen[0][0] != seen[0][1]


def pairs(count: int) -> TensorDataset:
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 100, (count, 3, 8, 8)) + 50 * labels[:, None, None, None]
    return TensorDataset(pixels.to(torch.uint8), labels)


def named(rows: list) -> ImageBatch:
    images, labels = (torch.stack(part) for part in zip(*rows, strict=True))
    return ImageBatch(images, labels, torch.arange(len(labels)))


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_loader_of_pairs_is_told_what_a_batch_is(sanity):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    model, rows = ImageClassifier(num_classes=3, small_images=True), pairs(24)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, num_sanity_val_steps=sanity, log_every_n_steps=1, **quiet
    )
    with pytest.raises(UserError, match="A batch is a list; expected a named tuple"):
        trainer.fit(model, DataLoader(rows, 8), DataLoader(rows, 8))
    trainer.fit(*(model, *(DataLoader(rows, 8, collate_fn=named) for _ in "ab")))
    assert trainer.callback_metrics["val/accuracy"] >= 0


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_a_single_value_is_normalized_by_the_running_statistics(shape):
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    layer = kind(4)
    layer.running_mean += 2
    torch.nn.init.normal_(layer.weight)
    usual = kind(4)
    usual.load_state_dict(layer.state_dict())
    assert normalize_single_values(torch.nn.Sequential(layer)) == 1
    value = torch.randn(shape)
    assert torch.equal(layer(value), usual.eval()(value))
    assert layer.training and int(layer.num_batches_tracked) == 0
    several = torch.randn(3, *shape[1:])
    assert torch.equal(layer(several), usual.train()(several))
    assert torch.equal(layer.running_var, usual.running_var)


def test_bfloat16_weights_learn_on_a_cpu(call, tmp_path):
    cpu = ("--trainer.accelerator=cpu", "--trainer.precision=bf16-true", "--trainer.max_epochs=2")
    assert call("fit", *DIGITS, *cpu, folder=tmp_path) == 0
    assert max(row["val/accuracy"] for row in validations(tmp_path)) > 0.5
    assert call("test", "--run", str(tmp_path)) == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_updates_of_16_bit_weights_are_those_of_the_formula(name):
    torch.manual_seed(1)
    layer, gradient = torch.nn.Linear(64, 64), torch.randn(64, 64)
    steps = []
    for kind in (torch.float32, torch.bfloat16):
        model = torch.nn.Linear(64, 64).to(kind)
        model.load_state_dict(layer.state_dict())
        optimizer = build_optimizer(model, name, 0.1, 0.0, 0.9)
        for _ in range(3):
            model.weight.grad = gradient.to(kind)
            optimizer.step()
        steps.append(model.weight.detach().float())
    assert torch.allclose(*steps, atol=0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "-0.1"),
        ("learning_rate", ".nan"),
        ("learning_rate", ".inf"),
        ("weight_decay", "-1e-4"),
        ("momentum", "1.5"),
        ("ema", "1.0"),
    ],
)
def test_a_number_out_of_range_is_named(name, value, call, tmp_path, capsys):
    assert call("fit", *TINY, f"--model.{name}={value}", folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: model.{name} is ") and "\n" not in error
