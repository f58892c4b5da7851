"""Runs that start from an encoder of a hub, and go on without it."""

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_hub import fake_hub, write_model
from huggingface_hub import constants
from killed import outcome
from some_words import WORDS

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import TextClassifier
from {{ cookiecutter.__package_name }}.data import TextData
from {{ cookiecutter.__package_name }}.engine.cli.project import Project
from {{ cookiecutter.__package_name }}.engine.text.read import read
from {{ cookiecutter.__package_name }}.engine.text.tokenizer import trained
from {{ cookiecutter.__package_name }}.engine.tools.serve import ServedRun

PROJECT = Project(package.__name__, TextClassifier, TextData, read)
NAME, NAMES = "somebody/tiny-bert", ("blue", "red")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Texts of two classes: red ones have a dog in them."""
    draw, file = random.Random(0), tmp_path_factory.mktemp("table") / "texts.csv"
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["text", "label"])
        for i in range(100):
            words = [draw.choice(WORDS) for _ in range(draw.randint(3, 9))]
            rows.writerow([" ".join([*words, "dog"][i % 2 :]), ("red", "blue")[i % 2]])
    return file


@pytest.fixture(scope="module")
def models(table, tmp_path_factory) -> Path:
    """A hub's folder with a classifier for the same classes in another order, and its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = trained([row["text"] for row in csv.DictReader(table.open())], 200)
    size = {"vocab_size": tokenizer.vocabulary, "max_position_embeddings": 64}
    write_model(root / NAME, id2label=dict(enumerate(reversed(NAMES))), **size)
    for name, content in tokenizer.files().items():
        (root / NAME / name).write_bytes(content)
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flags_of(table: Path, name: str, *more: str) -> tuple[str, ...]:
    given = "--config=configs/table.yaml", f"--data.options.path={table}", "--data.batch_size=16"
    given = *given, f"--model.network={name}", f"--data.tokenizer={name}", "--trainer.max_steps=8"
    return "fit", *given, "--data.max_length=32", *more


def record_of(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.mark.parametrize("more", [(), ("--model.lora_rank=2",)], ids=["all weights", "lora"])
def test_a_run_from_a_hub_resumes_predicts_and_serves_without_it_to_the_same_bits(
    more, table, models, cache, call: Callable[..., int], tmp_path, monkeypatch
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with fake_hub(models) as hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        flags = flags_of(table, NAME, *more)
        assert call(*flags, folder=whole) == 0
        assert call(*flags, "--until", "3", folder=cut) == 0
    shutil.rmtree(cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert call(*flags, folder=tmp_path / "new") == 2
    assert call("fit", "--run", str(cut)) == 0
    assert outcome(cut) == outcome(whole)
    line = record_of(cut)["initialized"]
    assert line.startswith(f"pretrained: weights of {NAME}, commit {hub.commit(NAME)}")
    assert line.endswith("; the head's outputs are put in the order blue, red")
    assert "network/config.json" in record_of(cut)["artifacts"]
    for verb in ("test", "predict"):
        assert call(verb, "--run", str(cut)) == 0
    said = ServedRun(PROJECT, cut).answer("a lazy dog")
    assert list(said["probabilities"]) == list(NAMES)
    (row,) = [row for row in csv.DictReader((cut / "predictions.csv").open())][:1]
    assert row["prediction"] in NAMES


def test_what_is_wrong_with_a_name_is_one_line_and_status_2(
    table, models, cache, call, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "model"
    shutil.copytree(models / NAME, folder)
    for name, message in (
        (str(tmp_path / "none"), "is not a folder; expected one with config.json"),
        ("gpt2", "whose model type is gpt2: that is not an encoder"),
    ):
        flags = flags_of(table, str(folder))
        assert call(*flags, f"--model.network={name}", folder=tmp_path / message) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line]
        assert len(errors) == 1 and message in errors[0]
    write_model(tmp_path / "short", vocab_size=92, max_position_embeddings=8)
    capsys.readouterr()
    flags = flags_of(table, str(folder), f"--model.network={tmp_path / 'short'}")
    assert call(*flags, folder=tmp_path / "a") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1
    assert "data.max_length is 32" in errors[0] and "has 8 positions" in errors[0]
    (folder / "model.safetensors").write_bytes(b"cut")
    assert call(*flags_of(table, str(folder)), folder=tmp_path / "b") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and "whose weights can't be read" in errors[0]


def test_an_encoder_of_a_model_type_trains_from_scratch(table, models, call, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    content = json.loads((models / NAME / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"vocab_size": 5}))
    flags = flags_of(table, str(folder), f"--data.tokenizer={models / NAME}")
    run = tmp_path / "run"
    assert call(*flags, "--model.pretrained=false", folder=run) == 0
    assert "initialized" not in record_of(run)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    key = "network.model.bert.embeddings.word_embeddings.weight"
    assert len(state[key]) > 5
