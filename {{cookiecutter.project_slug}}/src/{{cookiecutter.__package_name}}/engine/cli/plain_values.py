"""Values of a configuration that YAML has no form for: they are written and read as texts."""

from argparse import Namespace
from typing import Any

import torch
from lightning.pytorch.utilities import LightningEnum


def make_plain(config: Namespace) -> None:
    """Replace devices and Lightning's enums, which defaults of callbacks have, by their texts."""
    for name, value in vars(config).items():
        setattr(config, name, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        make_plain(value)
    elif isinstance(value, list):
        return [_plain(each) for each in value]
    elif isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    elif isinstance(value, LightningEnum):
        return str(value.value)
    elif isinstance(value, torch.device):
        return str(value)
    return value
