"""torchvision's classification networks by name, and their pretrained weights."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from ..errors import UserError
from ..model.weights import load_weights, read_weights
from .input_layer import for_channels

ADVICE = "Set model.network and model.small_images to those that it was saved with."
PRINT_ALL = "python -c 'from torchvision import models; print(*models.list_models(models))'"


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    return models.list_models(module=models)


def unknown_network(name: str, own: Iterable[str]) -> UserError:
    """Return the error for a name that is neither in `own` nor torchvision's."""
    ours, theirs = list(own), torchvision_names()
    close = difflib.get_close_matches(name, dict.fromkeys([*ours, *theirs]))
    return UserError(
        f"model.network is '{name}', which is unknown."
        + (f" Close: {', '.join(close)}." if close else "")
        + f" Known: {', '.join(ours)}, and torchvision's {len(theirs)}, printed by: {PRINT_ALL}"
    )


def torchvision_network(name: str, num_classes: int, small_images: bool) -> nn.Module:
    """Return torchvision's network of that name with random weights.

    `small_images` replaces the stem of a ResNet by one 3 by 3 convolution of stride 1 without
    pooling, as is usual for 32 by 32 pixels. Raises UserError for other networks.
    """
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # auxiliary heads would make the output a tuple
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    network = models.get_model(name, weights=None, num_classes=num_classes, **options)
    if not small_images:
        return network
    stem = getattr(network, "conv1", None)
    if not isinstance(stem, nn.Conv2d) or not hasattr(network, "maxpool"):
        raise UserError(
            f"model.small_images is true, but '{name}' does not have the stem of a ResNet: set it"
            " to false."
        )
    network.conv1 = nn.Conv2d(3, stem.out_channels, 3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def load_pretrained(body: nn.Module, name: str, pretrained: bool | str) -> str:
    """Load weights into a network: torchvision's for `name` if true, else those of a file.

    A head for another number of classes keeps its random weights. A network for other channels
    than RGB gets RGB's: see input_layer.py. Returns a message for the user. Raises UserError if the
    file can't be read or does not fit.
    """
    file = weights_file(name, pretrained)
    state = read_weights(file, "body.")
    # torchvision's files have DenseNet's layer names from before torch 0.4, with another dot.
    names = {key: re.sub(r"(denselayer\d+\.(norm|conv))\.([12]\.)", r"\1\3", key) for key in state}
    auxiliary = ("AuxLogits.", "aux1.", "aux2.")  # extra heads, which torchvision_network omits
    kept = {names[key]: state[key] for key in state if not key.startswith(auxiliary)}
    kept, adapted = for_channels(kept, body)
    return load_weights(body, kept, file, ADVICE) + (f"; {adapted}" if adapted else "")


def weights_file(name: str, pretrained: bool | str) -> Path:
    """Return the path of pretrained weights: the given one, or torchvision's, downloaded once.

    Raises UserError if torchvision has none, or they can't be downloaded.
    """
    if pretrained is not True:
        return Path(str(pretrained)).expanduser()
    if name not in torchvision_names():
        raise UserError(
            f"model.pretrained is true, but torchvision has no weights for '{name}': set a file"
            " with --model.pretrained path/to/file.pth"
        )
    url = models.get_model_weights(name).DEFAULT.url  # type: ignore[attr-defined]
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / url.rpartition("/")[2]
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:  # no network, no space; not the expected hash
            raise UserError(
                f"{url} could not be downloaded ({error}). Put that file into {folder}, or set it"
                f" with --model.pretrained path/to/{file.name}"
            ) from error
    return file
