"""Parameter groups: weight decay for matrices only, a learning rate for each layer."""

import pytest
import torch
from torch import nn

from {{ cookiecutter.__package_name }}.engine import build_optimizer, freeze
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.text.layers import (
    decay_layers,
    depths,
)
from {{ cookiecutter.__package_name }}.networks import Encoder

BLOCK = [
    "attention.queries_keys_values",
    "attention.output",
    "token.0",
    "token.2",
]
NORMS = ["attention_norm", "token_norm"]


@pytest.fixture
def network() -> nn.Module:
    """Two blocks: embeddings are at depth 0, the blocks at 1 and 2, the head is at 3."""
    return Encoder(20, 3, False, 0.1, 0.0, width=8, heads=2, depth=2)


def groups_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[tuple, set[str]]:
    """Return the names of the weights in the optimizer, by learning rate and weight decay."""
    names = {id(weight): name for name, weight in network.named_parameters()}
    found = dict[tuple, set[str]]()
    for group in optimizer.param_groups:
        key = round(group["lr"], 9), group["weight_decay"]
        found.setdefault(key, set()).update(names.pop(id(weight)) for weight in group["params"])
    assert not names, "weights without a group"
    return found


def block(number: int, kind: str) -> set[str]:
    """Return the names of a block's matrices, or of its biases and the weights of its norms."""
    if kind == "matrices":
        return {f"blocks.{number}.{name}.weight" for name in BLOCK}
    biases = {f"blocks.{number}.{name}.bias" for name in [*BLOCK, *NORMS]}
    return biases | {f"blocks.{number}.{name}.weight" for name in NORMS}


EMBEDDING = {f"embedding.{name}" for name in ("tokens.weight", "positions", "segments.weight")}
EMBEDDING |= {"neighbours.convolution.weight"}
NEIGHBOURS = {"neighbours.convolution.bias"}
NORM = {"norm.weight", "norm.bias"}


def test_weight_decay_spares_biases_and_norms(network):
    optimizer = build_optimizer(network, "adamw", 0.1, 0.01, 0.9)
    decay_layers(optimizer, network, 1.0)
    assert groups_of(optimizer, network) == {
        (0.1, 0.01): EMBEDDING | block(0, "matrices") | block(1, "matrices") | {"head.weight"},
        (0.1, 0.0): NEIGHBOURS | block(0, "others") | block(1, "others") | NORM | {"head.bias"},
    }


def test_the_learning_rate_falls_from_the_head_to_the_embeddings(network):
    optimizer = build_optimizer(network, "adamw", 0.1, 0.01, 0.9)
    decay_layers(optimizer, network, 0.5)
    assert groups_of(optimizer, network) == {
        (0.1, 0.01): {"head.weight"},
        (0.1, 0.0): NORM | {"head.bias"},
        (0.05, 0.01): block(1, "matrices"),
        (0.05, 0.0): block(1, "others"),
        (0.025, 0.01): block(0, "matrices"),
        (0.025, 0.0): block(0, "others"),
        (0.0125, 0.01): EMBEDDING,
        (0.0125, 0.0): NEIGHBOURS,
    }
    assert optimizer.param_groups[0]["lr"] == 0.1  # the rate that is logged


def test_frozen_layers_keep_groups_of_their_own_and_can_learn_later(network):
    freeze(network, outputs=3)
    optimizer = build_optimizer(network, "adamw", 0.1, 0.01, 0.9)
    decay_layers(optimizer, network, 0.5)
    for group in optimizer.param_groups:
        assert len({weight.requires_grad for weight in group["params"]}) == 1
    assert groups_of(optimizer, network)[0.0125, 0.01] == EMBEDDING


def test_each_layer_takes_a_step_of_its_learning_rate(network):
    optimizer = build_optimizer(network, "sgd", 0.1, 0.0, 0.0)
    decay_layers(optimizer, network, 0.5)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for name, weight in network.named_parameters():
        rate = 0.1 * 0.5 ** (3 - depths(network)[name])
        torch.testing.assert_close(before[name] - weight, torch.full_like(weight, rate))


@pytest.mark.parametrize("decay", [0, -1, 1.5])
def test_a_decay_that_is_no_share_is_refused(network, decay):
    optimizer = build_optimizer(network, "adamw", 0.1, 0.01, 0.9)
    with pytest.raises(UserError, match=f"model.layer_decay is {decay}; expected"):
        decay_layers(optimizer, network, decay)


def test_a_network_without_blocks_is_refused():
    network = nn.Sequential(nn.Linear(2, 3))
    optimizer = build_optimizer(network, "adamw", 0.1, 0.01, 0.9)
    with pytest.raises(UserError, match=r"Sequential has no nn\.ModuleList"):
        decay_layers(optimizer, network, 0.9)
