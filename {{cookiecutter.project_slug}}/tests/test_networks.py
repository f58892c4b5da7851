"""Every network takes images and returns logits, and every weight gets a gradient."""

import pytest
import torch

from {{ cookiecutter.__package_name }}.networks import NETWORKS, build_network

SIZES: dict[str, int] = {}  # for networks that take only one image size: {"mine": 224}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("small_images", "size"), [(True, 8), (False, 64)])
def test_a_network_takes_uint8_images_and_returns_logits(name, small_images, size):
    network = build_network(name, num_classes=7, small_images=small_images).eval()
    size = SIZES.get(name, size)
    logits = network(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert logits.shape == (2, 7) and logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_a_network_gets_a_gradient(name):
    network = build_network(name, num_classes=7, small_images=True)
    size = SIZES.get(name, 16)
    network(torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)).sum().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []
