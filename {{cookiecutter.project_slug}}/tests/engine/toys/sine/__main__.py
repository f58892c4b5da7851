"""A toy: learn sin(x) from noisy points. All that the engine needs for a regression."""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .engine import Best, Data, Facts, Splits, Task, Uniforms, digest, main


class Points(NamedTuple):
    """x, y: float32 (n, 1); row: int64 (n,), the row's place in its split, -1 for padding."""

    x: Tensor
    y: Any  # a Tensor, or None in a request
    row: Tensor


class SineTask(Task):
    best = Best("val/mae", "min")
    inputs = ("x",)

    def __init__(self, width: int = 64, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, batch: Points) -> Tensor:
        return self.network(batch.x)

    def loss(self, outputs: Tensor, batch: Points) -> Tensor:
        return mse_loss(outputs, batch.y)

    def totals(self, outputs: Tensor, batch: Points) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        errors, n = (outputs - batch.y).squeeze(1) * real, real.sum()
        return {"loss": (errors.square().sum(), n), "mae": (errors.abs().sum(), n)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), self.hparams["learning_rate"])


class SineData(Data):
    def __init__(self, noise: float = 0.1, batch_size: int = 64, eval_batch_size: int = 96) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.noise = noise
        self.splits = Splits(*(points(n, seed) for seed, n in enumerate((1000, 200, 200))))

    def augment(self, batch: Points, uniforms: Uniforms) -> Points:
        return batch._replace(y=batch.y + self.noise * (uniforms(1) - 0.5))

    def facts(self) -> Facts:
        rows, content = self.splits.rows, digest(self.splits)
        return Facts("sine", rows, content, unit="points", shapes={"x": (1,)})


def points(n: int, seed: int) -> Points:
    x = 6 * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) - 3
    return Points(x, x.sin(), torch.arange(n))


def read(values: list[float], facts: Facts) -> tuple[Points, dict[int, str]]:
    x = torch.tensor(values, dtype=torch.float32)[:, None]
    return Points(x, None, torch.arange(len(values))), {}


if __name__ == "__main__":
    sys.exit(main(task=SineTask, data=SineData, read=read))
