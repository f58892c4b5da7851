"""The exact result of a run: the loss of each logged step and a digest of each tensor.

They are stored in digests.json. `make reproduce` compares them.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..hashing import sha256_of
from ..json_text import to_json
from .metrics import read_metrics

Digests = dict[str, dict[str, str]]  # {losses, weights or optimizer: {step or tensor: digest}}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return one digest of all tensors and their names; the order does not matter."""
    return _one(_digests_of(tensors))


def _digests_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's dtype, shape and bits."""
    with ThreadPoolExecutor() as threads:  # hashing leaves Python's lock
        return dict(zip(tensors, threads.map(_digest_of, tensors.values()), strict=True))


def _digest_of(tensor: Tensor) -> str:
    copy = tensor.detach().to("cpu", non_blocking=tensor.is_cuda)  # to pinned memory, which is fast
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    bits = copy.flatten().view(torch.uint8).numpy().data
    return sha256_of([f"{tensor.dtype} {tuple(tensor.shape)}".encode(), bits])


def losses(folder: Path) -> dict[str, str]:
    """Return the training loss of each logged step as an exact hexadecimal number."""
    rows = read_metrics(folder / "metrics.csv")
    return {str(row["step"]): row["train/loss"].hex() for row in rows if "train/loss" in row}


def write_digests(
    folder: Path, model: nn.Module, optimizers: Sequence[Optimizer]
) -> dict[str, str]:
    """Write digests.json into a run's folder; return the digests of weights and optimizer."""
    state = {
        f"{name} {key}": value
        for optimizer in optimizers
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
        if isinstance(value, Tensor)
    }
    found: Digests = {
        "losses": losses(folder),
        "weights": _digests_of(model.state_dict()),
        "optimizer": _digests_of(state),
    }
    (folder / "digests.json").write_text(to_json(found, indent=1) + "\n")
    return {f"{part}_sha256": _one(found[part]) for part in ("weights", "optimizer")}


def digests_of_checkpoint(saved: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the digests of the weights and optimizers in a checkpoint that a run resumes from."""
    state = {
        f"optimizer {i}, weight {weight}, {key}": value
        for i, optimizer in enumerate(saved["optimizer_states"])
        for weight, values in optimizer["state"].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    weights = {k: v for k, v in saved["state_dict"].items() if isinstance(v, Tensor)}
    return {"weights": _digests_of(weights), "optimizer": _digests_of(state)}


def read_digests(folder: Path) -> Digests:
    """Return the digests in a run's folder: only the losses if the run did not finish."""
    file = folder / "digests.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return {"weights": {}, "optimizer": {}, **found, "losses": losses(folder)}


def _one(digests: Mapping[str, str]) -> str:
    return sha256_of([json.dumps(digests, sort_keys=True).encode()])
