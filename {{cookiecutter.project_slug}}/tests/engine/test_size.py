"""The line at the start of a run: the network's parameters and the FLOPs of a row."""

import pytest
import torch
from torch import nn

from {{ cookiecutter.__package_name }}.engine.model.size import (
    Size,
    size_of,
    with_flops,
)

TOKENS, WIDTH = 10, 16
ATTENTION = nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, dropout=0.5, batch_first=True)
# Projections (4 WIDTH^2 weights) and two layers (8 WIDTH^2), and each token's with each other.
OF_ATTENTION = 2 * TOKENS * 12 * WIDTH**2 + 4 * TOKENS**2 * WIDTH


@pytest.mark.parametrize(
    ("network", "row", "flops"),
    [
        (nn.Linear(8, 4), (1, 8), 2 * 8 * 4),
        (nn.Conv2d(3, 5, 3, padding=1), (1, 3, 6, 6), 2 * 27 * 5 * 36),
        (ATTENTION, (1, TOKENS, WIDTH), OF_ATTENTION),
    ],
)
def test_flops_are_two_for_each_multiply_add_of_the_forward_pass(network, row, flops):
    network.eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        expected = network(torch.ones(row))
        outputs, found = with_flops(lambda: network(torch.ones(row)))
    assert found == flops
    torch.testing.assert_close(outputs, expected)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_network_that_cannot_be_counted_is_computed_all_the_same():
    tried = []

    def compute() -> torch.Tensor:
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError("not while operations are counted")
        return torch.ones(2)

    outputs, flops = with_flops(compute)
    assert outputs.tolist() == [1, 1] and flops is None
    assert str(size_of(nn.Linear(2, 2), flops, None)) == "6 parameters"


def test_what_is_printed():
    assert str(Size(11_689_512, 5130, 3_628_146_688, None)) == (
        "11.7 M parameters (5.13 k trained), 3.63 GFLOPs forward for a row"
    )
    assert str(Size(135_000, 135_000, 512, 72)).endswith(
        ", 512 FLOPs forward for a row of length 72"
    )


@pytest.mark.parametrize(
    ("number", "short"), [(999, "999 parameters"), (999_600, "1 M"), (11_234_567, "11.2 M")]
)
def test_a_number_has_three_digits_and_a_prefix(number, short):
    assert str(Size(number, number, None, None)).startswith(short)
