"""A toy: several heads with a loss each. Points in a plane: which quarter, and how far out.

In the first epoch only the heads learn.
"""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from .engine import (
    Best,
    Data,
    Facts,
    Splits,
    Task,
    build_optimizer,
    digest,
    freeze,
    main,
    unfreeze,
)


class Places(NamedTuple):
    """place: float32 (n, 2); quarter: int64 (n,); radius: float32 (n,)."""

    place: Tensor
    quarter: Any  # a Tensor, or None in a request
    radius: Any  # a Tensor, or None in a request
    row: Tensor


class TwoHeads(nn.Module):
    """Returns a dict: quarter, logits (n, 4), and radius (n,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width))
        self.quarter, self.radius = nn.Linear(width, 4), nn.Linear(width, 1)

    def forward(self, place: Tensor) -> dict[str, Tensor]:
        features = self.body(place).relu()
        return {"quarter": self.quarter(features), "radius": self.radius(features).squeeze(1)}


class PlaceTask(Task):
    best = Best("val/accuracy", "max", ".2%")
    inputs = ("place",)

    def __init__(self, width: int = 32, learning_rate: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = TwoHeads(width)
        freeze(self.network.body, except_head=False)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            unfreeze(self.network)

    def forward(self, batch: Places) -> dict[str, Tensor]:
        return self.network(batch.place)

    def loss(self, outputs: dict[str, Tensor], batch: Places) -> dict[str, Tensor]:
        return {
            "quarter": cross_entropy(outputs["quarter"], batch.quarter),
            "radius": 2 * mse_loss(outputs["radius"], batch.radius),
        }

    def totals(self, outputs: dict[str, Tensor], batch: Places) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        logits, n = outputs["quarter"], real.sum()
        entropy = cross_entropy(logits, batch.quarter, reduction="none")
        squares = (outputs["radius"] - batch.radius).square()
        return {
            "loss": (((entropy + 2 * squares) * real).sum(), n),
            "accuracy": (((logits.argmax(1) == batch.quarter) & real).sum(), n),
            "radius": ((squares.sqrt() * real).sum(), n),
        }

    def predict(self, outputs: dict[str, Tensor]) -> Tensor:
        return torch.cat([outputs["quarter"].softmax(1), outputs["radius"][:, None]], 1)

    def configure_optimizers(self) -> Any:
        return build_optimizer(self.network, "sgd", self.hparams["learning_rate"], 0.0, 0.9)


class PlaceData(Data):
    def __init__(self, batch_size: int = 64, eval_batch_size: int = 96) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.splits = Splits(*(places(n, seed) for seed, n in enumerate((1000, 200, 200))))

    def facts(self) -> Facts:
        rows, content = self.splits.rows, digest(self.splits)
        return Facts("places", rows, content, unit="places", shapes={"place": (2,)})


def places(n: int, seed: int) -> Places:
    place = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    quarter = 2 * (place[:, 0] > 0).long() + (place[:, 1] > 0).long()
    return Places(place, quarter, place.norm(dim=1), torch.arange(n))


def read(requests: list[list[float]], facts: Facts) -> tuple[Places, dict[int, str]]:
    return Places(torch.tensor(requests), None, None, torch.arange(len(requests))), {}


if __name__ == "__main__":
    sys.exit(main(task=PlaceTask, data=PlaceData, read=read))
