"""Shared by the tests of your files. The tests of the engine are in tests/engine."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_seed_and_one_thread() -> None:
    """A second thread would only slow down networks as small as these."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
