"""Pretrained weights of an encoder: which are used, and which head fits the data's classes."""

from pathlib import Path

import pytest
import torch
from fake_hub import write_model
from torch import Tensor, nn

from {{ cookiecutter.__package_name }}.engine import UserError
from {{ cookiecutter.__package_name }}.engine.text.encoders import (
    Encoder,
    load_encoder,
    load_weights,
)

NAMES = ("bad", "fine", "good")
TOKENS = torch.randint(5, 100, (4, 8), generator=torch.Generator().manual_seed(0))


def logits(network: nn.Module) -> Tensor:
    return network.eval()(TOKENS, None, torch.ones(TOKENS.shape, dtype=torch.bool))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A pretrained classifier of three classes, in a folder."""
    write_model(tmp_path / "model", id2label=dict(enumerate(NAMES)))
    return tmp_path / "model"


def started(folder: Path, classes: tuple[str, ...]) -> tuple[Encoder, Tensor, str]:
    """Return a network for these classes, its logits before loading, and the line of loading."""
    network = load_encoder(str(folder), len(classes), 100)
    before = logits(network)
    return network, before, load_weights(network, str(folder), classes)


def test_a_head_for_the_same_names_in_another_order_is_reordered(folder):
    same, _, line = started(folder, NAMES)
    assert line.count(";") == 0 and line.startswith(f"weights of {folder}, sha256 ")
    other, _, line = started(folder, ("good", "bad", "fine"))
    assert line.endswith("; the head's outputs are put in the order good, bad, fine")
    torch.testing.assert_close(logits(other), logits(same)[:, [2, 0, 1]])


@pytest.mark.parametrize("classes", [("bad", "fine", "great"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_a_head_for_other_names_is_replaced_though_it_has_as_many(classes, folder):
    network, before, line = started(folder, classes)
    assert line.endswith("; its head is for bad, fine, good, so the head is new")
    pretrained = type(network.model).from_pretrained(folder).state_dict()
    for key, value in network.model.state_dict().items():
        assert torch.equal(value, pretrained[key]) != key.startswith("classifier."), key
    assert not torch.allclose(logits(network), before)


def test_a_head_for_another_number_of_classes_is_replaced(folder):
    network, _, line = started(folder, ("bad", "good"))
    assert line.endswith("; the head is new") and logits(network).shape == (4, 2)


@pytest.mark.parametrize(("kind", "head"), [("roberta", "roberta."), ("distilbert", "distilbert.")])
def test_all_layers_of_a_replaced_head_are_new(kind, head, tmp_path):
    write_model(tmp_path, kind, id2label=dict(enumerate(NAMES)))
    network = load_encoder(str(tmp_path), 2, 100, padding_id=1 if kind == "roberta" else 0)
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    load_weights(network, str(tmp_path), ("a", "b"))
    pretrained = type(network.model).from_pretrained(tmp_path).state_dict()
    for key, value in network.model.state_dict().items():
        if key.startswith(head):
            assert torch.equal(value, pretrained[key])
        elif value.shape != pretrained[key].shape:
            assert torch.equal(value, before[key])


def test_what_a_masked_language_model_lacks_and_has_besides_is_named(tmp_path):
    write_model(tmp_path, head="masked")
    network = load_encoder(str(tmp_path), 2, 100)
    line = load_weights(network, str(tmp_path), ("a", "b"))
    assert "; the head is new; new, too: bert.pooler.dense.bias and 1 more; not used: cls." in line
    assert "\n" not in line


def test_loading_draws_no_random_numbers(folder):
    network = load_encoder(str(folder), 2, 100)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_weights(network, str(folder), ("a", "b"))
    assert torch.equal(torch.rand(3), expected)


def test_weights_in_the_old_format_are_loaded_too(folder):
    expected = logits(started(folder, NAMES)[0])
    network = load_encoder(str(folder), 3, 100)
    state = type(network.model).from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    load_weights(network, str(folder), NAMES)
    torch.testing.assert_close(logits(network), expected)


def test_weights_in_half_precision_become_float32(folder):
    network = load_encoder(str(folder), 3, 100)
    type(network.model).from_pretrained(folder).half().save_pretrained(folder)
    network = load_encoder(str(folder), 3, 100)
    load_weights(network, str(folder), NAMES)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("damage", ["half", "pointer", "text"])
def test_a_damaged_file_is_named(damage, folder):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 44\n"
    file.write_bytes({"half": content[: len(content) // 2], "pointer": pointer}.get(damage, b"no"))
    why = "is only a pointer of Git LFS" if damage == "pointer" else "was not copied to its end"
    with pytest.raises(UserError, match=rf"weights can't be read \(.*{file}.*{why}") as error:
        started(folder, NAMES)
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_are_refused(folder, tmp_path):
    write_model(tmp_path / "other", "roberta")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"of another architecture: \d+ of \d+ are missing"):
        started(folder, NAMES)
