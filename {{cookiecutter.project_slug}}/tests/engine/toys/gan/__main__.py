"""A toy: a GAN, which trains two networks by hand. It learns to draw points of a ring."""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .engine import Best, Data, Facts, Splits, Task, Uniforms, digest, main


class Ring(NamedTuple):
    """point: float32 (n, 2), on the ring; noise: float32 (n, 4), what a point is drawn from."""

    point: Any  # a Tensor, or None in a request
    noise: Tensor
    row: Tensor


def layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, outputs))


class RingTask(Task):
    best = Best("val/radius", "min")
    inputs = ("noise",)

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.network, self.critic = layers(4, 2), layers(2, 1)

    def forward(self, batch: Ring) -> Tensor:
        return self.network(batch.noise)

    def loss(self, points: Tensor, batch: Ring) -> Tensor:
        return softplus(-self.critic(points)).mean()

    def training_step(self, batch: Ring, batch_idx: int) -> Any:
        optimizers: Any = self.optimizers()
        of_network, of_critic = optimizers
        drawn = self(batch).detach()
        wrong = softplus(self.critic(drawn)) + softplus(-self.critic(batch.point))
        for optimizer, make in ((of_critic, wrong.mean), (of_network, None)):
            loss = make() if make else self.loss(self(batch), batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train/loss", loss.detach())

    def totals(self, points: Tensor, batch: Ring) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        doubt = softplus(-self.critic(points)).squeeze(1) * real
        off = (points.norm(dim=1) - 1).abs() * real
        return {"loss": (doubt.sum(), real.sum()), "radius": (off.sum(), real.sum())}

    def configure_optimizers(self) -> Any:
        rate = self.hparams["learning_rate"]
        return [torch.optim.Adam(part.parameters(), rate) for part in (self.network, self.critic)]


class RingData(Data):
    def __init__(self, batch_size: int = 64, eval_batch_size: int = 96) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.splits = Splits(*(ring(n, seed) for seed, n in enumerate((1000, 200, 200))))

    def augment(self, batch: Ring, uniforms: Uniforms) -> Ring:
        return batch._replace(noise=2 * uniforms(4) - 1)

    def facts(self) -> Facts:
        rows, content = self.splits.rows, digest(self.splits)
        return Facts("ring", rows, content, unit="points", shapes={"noise": (4,)})


def ring(n: int, seed: int) -> Ring:
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    noise = 2 * torch.rand(n, 4, generator=generator) - 1
    return Ring(torch.stack([angle.cos(), angle.sin()], 1), noise, torch.arange(n))


def read(requests: list[list[float]], facts: Facts) -> tuple[Ring, dict[int, str]]:
    return Ring(None, torch.tensor(requests), torch.arange(len(requests))), {}


if __name__ == "__main__":
    sys.exit(main(task=RingTask, data=RingData, read=read))
