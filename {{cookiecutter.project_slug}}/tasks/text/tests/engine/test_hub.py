"""Models by name from a hub: the real client, and a hub on 127.0.0.1."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, config, fake_hub, write_model
from huggingface_hub import constants

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine import UserError
from {{ cookiecutter.__package_name }}.engine.artifacts import artifacts_of
from {{ cookiecutter.__package_name }}.engine.text.encoders import (
    load_encoder,
    load_weights,
)

SOURCE = Path(package.__path__[0]).parent
NAME = "somebody/tiny-bert"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root / NAME, id2label=dict(enumerate(("bad", "good"))))
    write_model(root / "tiny-bert")
    return root


@pytest.fixture
def hub(models, tmp_path, monkeypatch) -> Iterator[FakeHub]:
    """A hub with an empty cache, as HF_ENDPOINT and HF_HUB_CACHE would name them."""
    with fake_hub(models) as hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def downloads(hub: FakeHub) -> dict[str, int]:
    asked = hub.asked.items()
    return {path.rpartition("/")[2]: n for path, n in asked if "GET" in path and "resolve" in path}


def test_a_network_is_built_from_its_configuration_alone_and_filled_from_the_hub(hub, models):
    network = load_encoder(NAME, 2, 100)
    assert downloads(hub) == {"config.json": 1}
    line = load_weights(network, NAME, ("bad", "good"))
    assert line == f"weights of {NAME}, commit {hub.commit(NAME)}"
    assert downloads(hub) == {"config.json": 1, "model.safetensors": 1}
    expected = type(network.model).from_pretrained(models / NAME).state_dict()
    own = network.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in expected.items())


def test_a_name_without_an_owner_and_one_with_a_revision_are_found_too(hub):
    for name in ("tiny-bert", f"tiny-bert@{hub.commit('tiny-bert')}", "tiny-bert@main"):
        assert hub.commit("tiny-bert") in load_weights(load_encoder(name, 2, 100), name)
    with pytest.raises(UserError, match=r"tiny-bert@v2, but the model has no such revision"):
        load_encoder("tiny-bert@v2", 2, 100)


def test_what_the_cache_has_needs_no_network(hub, monkeypatch):
    load_weights(load_encoder(NAME, 2, 100), NAME)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.commit(NAME) in load_weights(load_encoder(NAME, 2, 100), NAME)
    assert not hub.asked


def test_a_run_that_goes_on_needs_neither_hub_nor_cache(hub, tmp_path, monkeypatch):
    network = load_encoder(NAME, 3, 100, dropout=0.25)
    run = tmp_path / "run"
    for name, content in network.artifacts().items():
        (run / "artifacts" / name).parent.mkdir(parents=True)
        (run / "artifacts" / name).write_bytes(content)
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the hub's cache"):
        load_encoder(NAME, 3, 100)
    with artifacts_of(run):
        again = load_encoder(NAME, 3, 100, dropout=0.25)
    again.load_state_dict(network.state_dict())
    assert str(again) == str(network) and again.artifacts() == network.artifacts()
    with artifacts_of(run), pytest.raises(UserError, match="is other, which is not in"):
        load_encoder("other", 3, 100)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_model_that_the_hub_does_not_show_is_named(status, hub):
    hub.status[NAME] = status
    message = {
        401: r"has no such model, or it is private \(HTTP 401\)",
        403: r"does not show to everybody \(HTTP 403\).*HF_TOKEN",
        404: r"has no such model, or it is private \(HTTP 404\)",
    }
    with pytest.raises(UserError, match=f"^model.network is {NAME}, .*{message[status]}") as error:
        load_encoder(NAME, 2, 100)
    assert "\n" not in str(error.value)


def test_a_download_that_breaks_off_is_named_and_completed_by_the_next(hub):
    network = load_encoder(NAME, 2, 100)
    hub.cut.add("model.safetensors")
    with pytest.raises(UserError, match=r"whose download from http://127.* broke off") as error:
        load_weights(network, NAME)
    assert "\n" not in str(error.value)
    hub.cut.clear()
    assert hub.commit(NAME) in load_weights(network, NAME)


def test_without_a_network_the_files_and_their_folder_are_named(models, tmp_path, monkeypatch):
    with fake_hub(models) as hub:
        pass  # nothing listens there any more
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_encoder("bert-base-uncased", 2, 30522)
    assert re.fullmatch(
        r"model.network is bert-base-uncased, which is not in the hub's cache, and"
        r" http://127\.0\.0\.1:\d+ can't be used \(.+\). Without a network, copy its files"
        r" config.json and model.safetensors \(and tokenizer.json, for --data.tokenizer\) into a"
        r" folder, and set --model.network FOLDER; for a mirror of the hub, set HF_ENDPOINT.",
        str(error.value),
    )


def test_model_types_that_are_spelled_like_an_unknown_name_are_named(hub):
    with pytest.raises(UserError, match=r"no such model.* Model types spelled like it: deberta-v2"):
        load_encoder("deberta_v2", 2, 100)


@pytest.mark.parametrize("name", ["a b", "-tiny", "owner/na:me"])
def test_what_can_be_no_name_of_a_model_is_refused(name, hub):
    with pytest.raises(
        UserError, match="which is neither the name of a model on a hub nor a folder"
    ):
        load_encoder(name, 2, 100)


FETCHES = """
import sys
from {package}.engine.text.hub import CONFIG, WEIGHTS, files_of
print(files_of(sys.argv[1], [*CONFIG, *WEIGHTS]))
"""


def test_processes_that_load_at_the_same_time_download_once(models, tmp_path):
    with fake_hub(models) as hub:
        surroundings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache")}
        surroundings |= {"PYTHONPATH": str(SOURCE)}
        command = [sys.executable, "-c", FETCHES.format(package=package.__name__), NAME]
        processes = [
            subprocess.Popen(
                command, env=os.environ | surroundings, stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    (folder,) = map(Path, folders)
    assert folder.name == hub.commit(NAME) and (folder / "model.safetensors").is_file()
    assert downloads(hub) == {"config.json": 1, "model.safetensors": 1}


def test_transformers_is_imported_only_if_an_encoder_is_built_and_without_scipy():
    code = f"import sys, {package.__name__}.engine.text.encoders as e; print(*sys.modules);"
    code += "e.load_encoder('bert', 2, 100); print(*sys.modules)"
    command, surroundings = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(SOURCE)}
    lines = subprocess.check_output(command, env=surroundings, text=True).splitlines()
    imported, built = (set(line.split()) for line in lines)
    assert f"{package.__name__}.engine.text.encoders" in imported
    assert not {"transformers", "peft", "huggingface_hub", "sklearn"} & imported
    assert "transformers.models.bert.modeling_bert" in built and "scipy" not in built


def test_a_configuration_of_another_kind_is_named(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(UserError, match=r"is not a folder; expected one with config.json"):
        load_encoder(str(folder), 2, 100)
    folder.mkdir()
    with pytest.raises(UserError, match=r"has no config.json"):
        load_encoder(str(folder), 2, 100)
    for content, message in (
        ("{", "is not a configuration of transformers"),
        ('{"hidden_size": 8}', "is not a configuration of transformers"),
        ('{"model_type": "of-2030"}', "whose model type of-2030 is unknown to this version"),
        ('{"model_type": "gpt2"}', "whose model type is gpt2: that is not an encoder"),
        ('{"model_type": "t5"}', "whose model type is t5: that is not an encoder"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(UserError, match=message) as error:
            load_encoder(str(folder), 2, 100)
        assert "\n" not in str(error.value)
    config("bert").save_pretrained(folder)
    with pytest.raises(UserError, match=r"has no weights: expected model.safetensors or"):
        load_weights(load_encoder(str(folder), 2, 100), str(folder))
