"""A toy: two inputs of different shape. A curve and two settings give the distance to a peak.

The rows are made when they are asked for, as files are read: in worker processes.
"""

import hashlib
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from .engine import Best, Data, Facts, Splits, Task, Uniforms, main
from .engine.data.order import uniforms as numbers_of

LENGTH = 32


class Pairs(NamedTuple):
    """curve: float32 (n, 1, 32); settings: float32 (n, 2); distance: float32 (n,)."""

    curve: Tensor
    settings: Tensor
    distance: Any  # a Tensor, or None in a request
    row: Tensor


class Curves:
    """Rows that are computed; training on one adds noise by its own two numbers."""

    in_memory = False
    lengths = None
    uniforms = 2

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed

    def take(self, index: Tensor, length: int | None, uniforms: Uniforms | None) -> Pairs:
        peak, scale, asked = numbers_of(self.seed, 0, index, 3).unbind(1)
        x = torch.linspace(0, 1, LENGTH)
        curve = (0.5 + scale)[:, None] * torch.exp(-80 * (x - peak[:, None]).square())
        if uniforms is not None:
            curve = curve + 0.05 * (uniforms(2)[:, :1] - uniforms(2)[:, 1:])
        settings = torch.stack([asked, scale], 1)
        return Pairs(curve[:, None], settings, (asked - peak).abs(), index)


class TwoInputs(nn.Module):
    """Returns float32 (n, 1) for curves (n, 1, 32) and settings (n, 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.curve = nn.Sequential(nn.Conv1d(1, width, 5, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(14 * width + 2, 4 * width), nn.ReLU(), nn.Linear(4 * width, 1)
        )

    def forward(self, curve: Tensor, settings: Tensor) -> Tensor:
        return self.head(torch.cat([self.curve(curve), settings], 1))


class DistanceTask(Task):
    best = Best("val/loss", "min")
    inputs = ("curve", "settings")

    def __init__(self, width: int = 8, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = TwoInputs(width)

    def forward(self, batch: Pairs) -> Tensor:
        return self.network(batch.curve, batch.settings).squeeze(1)

    def loss(self, outputs: Tensor, batch: Pairs) -> Tensor:
        return l1_loss(outputs, batch.distance)

    def totals(self, outputs: Tensor, batch: Pairs) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        return {"loss": (((outputs - batch.distance).abs() * real).sum(), real.sum())}

    def target(self, batch: Pairs) -> Tensor | None:
        return batch.distance

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.network.parameters(), self.hparams["learning_rate"])


class PairData(Data):
    def __init__(self, batch_size: int = 64, eval_batch_size: int = 96) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.splits = Splits(Curves(640, 1), Curves(200, 2), Curves(200, 3))

    def facts(self) -> Facts:
        content = hashlib.sha256(b"peaks, version 1").hexdigest()
        shapes = {"curve": (1, LENGTH), "settings": (2,)}
        return Facts("peaks", self.splits.rows, content, unit="curves", shapes=shapes)


def read(requests: list[dict], facts: Facts) -> tuple[Pairs, dict[int, str]]:
    problems = {
        i: f"has no curve of {LENGTH} numbers"
        for i, request in enumerate(requests)
        if len(request.get("curve", ())) != LENGTH
    }
    good = [request for i, request in enumerate(requests) if i not in problems]
    curve = torch.tensor([request["curve"] for request in good]).view(-1, 1, LENGTH)
    settings = torch.tensor([request["settings"] for request in good]).view(-1, 2)
    return Pairs(curve, settings, None, torch.arange(len(good))), problems


if __name__ == "__main__":
    sys.exit(main(task=DistanceTask, data=PairData, read=read))
