"""What the tests of your files share. The engine's own are in tests/engine."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_seed_and_one_thread() -> None:
    """Networks as small as these only wait for a second thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
