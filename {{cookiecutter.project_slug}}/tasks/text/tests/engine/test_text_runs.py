"""Runs on texts: exact in several parts, repeated to the bit, measured by their own metric."""

import re
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from killed import by_two_ranks
from some_words import WORDS
from torch import Tensor
from variants import TABLE, arguments, write_data

from {{ cookiecutter.__package_name }}.classifier import TextClassifier
from {{ cookiecutter.__package_name }}.data import TextData
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.fast.data_parallel import (
    DataParallel,
)

MASKED = {"labels": 0.0, "masked tokens": 0.15}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def learned(table: str, masking: float, devices: int, micro_batches: int) -> dict[str, Tensor]:
    """Return the weights after an epoch in float64 without dropout, 16 rows a step."""
    L.seed_everything(0, verbose=False)
    size = 16 // devices // micro_batches
    data = TextData("table", {"path": table}, batch_size=size, vocabulary=200, masking=masking)
    sizes = {"num_classes": data.num_classes, "vocab_size": data.vocab_size}
    task = TextClassifier(**sizes, objective=data.objective, dropout=0.0)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "logger"), False)
    trainer = L.Trainer(
        **quiet,
        accelerator="cpu",
        devices=devices,
        strategy=DataParallel() if devices > 1 else "auto",
        precision="64-true",
        accumulate_grad_batches=micro_batches,
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=0.5,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 4
    return task.state_dict()


BY_TWO = """
import os, sys, torch
sys.path.append(sys.argv[1])
from test_text_runs import MASKED, learned

for what, masking in MASKED.items():
    found = learned(sys.argv[2], masking, devices=2, micro_batches=2)
    if os.environ["RANK"] == "0":
        torch.save(found, os.path.join(sys.argv[3], what + ".pt"))
"""


def test_two_processes_that_accumulate_learn_as_one(data, tmp_path):
    """For the labels' loss, a mean over rows, and for that of masked tokens, one over tokens."""
    table = str(data / "texts.csv")
    by_two_ranks(tmp_path, BY_TWO, str(Path(__file__).parent), table, str(tmp_path))
    for what, masking in MASKED.items():
        one = learned(table, masking, devices=1, micro_batches=1)
        two = torch.load(tmp_path / f"{what}.pt", weights_only=True)
        for name, weight in one.items():
            assert weight.dtype == torch.float64
            torch.testing.assert_close(two[name], weight, rtol=1e-9, atol=1e-9)


def test_a_run_is_retrained_to_the_same_bits(data, call, tmp_path, capfd):
    _, flags = arguments("masked tokens", data)
    assert call(*flags, folder=tmp_path / "run") == 0
    assert call("reproduce", "--run", str(tmp_path / "run")) == 0
    assert re.search(r"identical: \d+ losses and \d+ tensors", capfd.readouterr().out)


def test_a_balanced_sampler_shows_texts_of_each_class_as_often(tmp_path):
    table = tmp_path / "texts.csv"
    lines = ["text,label,split", "a few words,rare,val", "a few more words,common,val"]
    for i in range(400):
        label = "common" if i % 20 else "rare"
        lines.append(f"{' '.join(WORDS[: i % 15])} {i},{label},train")
    table.write_text("\n".join(lines))
    options = {"options": {"path": str(table)}, "vocabulary": 200}
    data = TextData("table", **options, batch_size=20, sampler="balanced")
    (remark,) = data.facts().remarks
    assert "rare 20, common 380" in remark and "--data.sampler balanced" in remark
    batches = list(data.train_dataloader())
    rare = torch.cat([batch.labels for batch in batches]) == data.classes.index("rare")
    assert len(rare) == 400 and 0.4 < rare.double().mean() < 0.6
    every = data.splits.train.batch
    assert all(torch.equal(batch.labels, every.labels[batch.row]) for batch in batches)
    with pytest.raises(UserError, match=r"sampler is balanced, which needs classes, .* masked"):
        TextData("table", **options, masking=0.15, sampler="balanced")


def test_several_seeds_print_the_metric_as_it_is(data, call, tmp_path, capsys):
    """The number's error is no percentage, although a class's accuracy is one."""
    recipe = shutil.copy("configs/table.yaml", tmp_path / f"{tmp_path.name}.yaml")
    flags = f"--config={recipe}", f"--data.options.path={data / 'pairs.csv'}", *TABLE[1:]
    assert call("seeds", "3,4", *flags, "--trainer.max_epochs=1") == 0
    said = capsys.readouterr().out
    assert re.search(r"^  seed 3 +\d\.\d{4}  ", said, re.MULTILINE)
    assert re.search(r"^best val/loss \d\.\d{4} ± \d\.\d{4} \(mean", said, re.MULTILINE)
    shutil.rmtree(Path(said.split("table: ")[1].strip()).parent)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.class_weights={green: 2}", "'green', which is not a class of the data"),
        ("--model.network=tinyencoder", "Did you mean 'tiny_encoder'"),
        ("--model.label_smoothing=2", "is 2.0; expected a share"),
        ("--model.lora_rank=2 --model.freeze_backbone=true", "leave one of them unset"),
        ("--data.options.quotes=maybe", "data.options.quotes is 'maybe'; expected true or false"),
        ("--data.options.metrics=pearson", "has 'pearson'; expected accuracy or f1 or matthews"),
        ("--best=val/acuracy", "Did you mean 'val/accuracy'"),
        ("--best=val/f1_makro", "Did you mean 'val/f1_macro'"),
    ],
)
def test_a_wrong_choice_is_one_line_before_training(flag, message, data, call, tmp_path, capsys):
    flags = *TABLE, f"--data.options.path={data / 'texts.csv'}", *re.split(" (?=--)", flag)
    assert call("fit", *flags, folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and message in error
    assert not (tmp_path / "metrics.csv").exists()


def test_texts_that_each_epoch_leaves_out_are_named(data, call, tmp_path, capsys):
    _, flags = arguments("classes", data)
    assert call(*flags, "--data.batch_size=40", "--trainer.max_epochs=1", folder=tmp_path) == 0
    said = capsys.readouterr().out
    assert "note: each epoch leaves out 24 of 64 training texts, others each time" in said
    assert "--data.batch_size 32 uses all." in said


def test_an_evaluation_on_other_classes_names_them(data, call, tmp_path, capsys):
    table = shutil.copy(data / "texts.csv", tmp_path / "texts.csv")
    flags = *TABLE, f"--data.options.path={table}", "--trainer.max_steps=1"
    assert call("fit", *flags, folder=tmp_path / "run") == 0
    with Path(table).open("a") as file:
        file.write("a quick fox,green,val\na lazy dog,green,train\n")
    assert call("validate", "--run", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert "'green' is a class of the data, not of the run" in error and "(blue, red)" in error


def test_a_length_for_which_the_network_has_no_positions_is_refused_at_the_start(
    data, call, tmp_path, capsys
):
    flags = *TABLE, f"--data.options.path={data / 'texts.csv'}"
    assert call("fit", *flags, "--data.max_length=1024", folder=tmp_path) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert errors == [
        "error: data.max_length is 1024, and the network has 512 positions. Set"
        " --data.max_length 512"
    ]
