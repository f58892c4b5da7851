"""Every network takes tokens and returns logits, padding changes nothing, every weight learns."""

import pytest
import torch
from torch import Tensor

from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.text.encoders import (
    check_max_length,
)
from {{ cookiecutter.__package_name }}.networks import (
    NETWORKS,
    POSITIONS,
    build_network,
    some_of,
)

VOCABULARY = 50


def inputs(n: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, segments and mask of n rows of different lengths; the first is the longest."""
    tokens = torch.randint(2, VOCABULARY, (n, length), dtype=torch.int32)
    positions, lengths = torch.arange(length), length - torch.arange(n)
    segments = (positions >= length // 2).to(torch.uint8).expand(n, -1)
    return tokens, segments, positions < lengths[:, None]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_takes_tokens_and_returns_logits(name):
    network = build_network(name, num_outputs=7, vocab_size=VOCABULARY).eval()
    tokens, segments, mask = inputs(3, 16)
    for given in (segments, None):
        logits = network(tokens, given, mask)
        assert logits.shape == (3, 7) and logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_for_masked_tokens_returns_logits_of_each_token(name):
    network = build_network(name, VOCABULARY, VOCABULARY, objective="masked").eval()
    assert network(*inputs(3, 16)).shape == (3, 16, VOCABULARY)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_does_not_change_the_logits(name):
    network = build_network(name, num_outputs=7, vocab_size=VOCABULARY).eval()
    tokens, segments, mask = inputs(4, 16)
    padded = network(tokens, segments, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        part = slice(row, row + 1), slice(0, length)
        alone = network(tokens[part], segments[part], mask[part])
        torch.testing.assert_close(padded[row], alone[0])
    other = tokens.where(mask, 3)
    torch.testing.assert_close(network(other, segments, mask), padded, rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_of_the_tokens_and_their_segments_matter(name):
    network = build_network(name, num_outputs=7, vocab_size=VOCABULARY).eval()
    tokens, segments, mask = inputs(1, 16)
    logits = network(tokens, segments, mask)
    assert not torch.allclose(network(tokens.flip(1), segments, mask), logits)
    assert not torch.allclose(network(tokens, 1 - segments, mask), logits)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("pairs", [True, False])
def test_every_weight_of_a_network_gets_a_gradient(name, pairs):
    network = build_network(name, num_outputs=7, vocab_size=VOCABULARY)
    tokens, segments, mask = inputs(4, 16)
    network(tokens, segments if pairs else None, mask).sum().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("objective", ["classes", "masked"])
def test_a_network_is_one_graph(name, objective):
    network = build_network(name, VOCABULARY, VOCABULARY, objective=objective).eval()
    batch = inputs(3, 16)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*batch), network(*batch))


def test_training_hides_tokens_and_without_dropout_it_does_not():
    batch = inputs(4, 16)
    for dropout, same in ((0.1, False), (0.0, True)):
        network = build_network("tiny_encoder", 7, VOCABULARY, dropout=dropout)
        assert torch.equal(network.train()(*batch), network(*batch)) == same
        torch.testing.assert_close(network.eval()(*batch), network(*batch), rtol=0, atol=0)
    mask = torch.ones(1000, 10, dtype=torch.bool)
    chosen = some_of(mask, 0.4)
    assert chosen[:, 0].all() and 0.38 < chosen[:, 1:].float().mean() < 0.42


def test_a_network_says_how_many_positions_it_has():
    network = build_network("tiny_encoder", num_outputs=7, vocab_size=VOCABULARY)
    check_max_length(network, POSITIONS)
    assert network(*inputs(2, POSITIONS)).isfinite().all()
    with pytest.raises(UserError, match=f"is {POSITIONS + 8}, and .* has {POSITIONS} positions"):
        check_max_length(network, POSITIONS + 8)
    with pytest.raises(UserError, match=f"a row of 600 tokens, and .* has {POSITIONS} positions"):
        check_max_length(network, POSITIONS, longest=600)


def test_a_forgotten_return_is_named(monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", lambda *_: None)
    with pytest.raises(UserError, match=r"'mine' in networks\.py returns None: is `return` miss"):
        build_network("mine", num_outputs=2, vocab_size=VOCABULARY)
