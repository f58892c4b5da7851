"""A toy: three classes, one of them rare. Macro-F1 is a ratio of totals for each, AUROC is none."""

import sys
from typing import Any, NamedTuple

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from .engine import Best, Data, Facts, Splits, Task, digest, main

CLASSES = ("common", "other", "rare")


class Points(NamedTuple):
    """x: float32 (n, 4); kind: int64 (n,)."""

    x: Tensor
    kind: Any  # a Tensor, or None in a request
    row: Tensor


class RareTask(Task):
    best = Best("val/f1", "max")
    inputs = ("x",)

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, len(CLASSES)))

    def forward(self, batch: Points) -> Tensor:
        return self.network(batch.x)

    def loss(self, logits: Tensor, batch: Points) -> Tensor:
        return cross_entropy(logits, batch.kind)

    def totals(self, logits: Tensor, batch: Points) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        entropy = cross_entropy(logits, batch.kind, reduction="none") * real
        said, true = (
            one_hot(kind, len(CLASSES)) * real[:, None] for kind in (logits.argmax(1), batch.kind)
        )
        hits = 2 * (said * true).sum(0)
        return {"loss": (entropy.sum(), real.sum()), "f1": (hits, (said + true).sum(0))}

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(1)

    def target(self, batch: Points) -> Tensor | None:
        return batch.kind

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {"auroc": roc_auc_score(targets, predictions, multi_class="ovr")}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), self.hparams["learning_rate"], 0.9)


class RareData(Data):
    def __init__(self, batch_size: int = 64, eval_batch_size: int = 96) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.splits = Splits(*(points(n, seed) for seed, n in enumerate((1000, 250, 250))))
        kind = self.splits.train.kind
        self.sample_weights = 1.0 / kind.bincount().double()[kind]

    def facts(self) -> Facts:
        rows, content = self.splits.rows, digest(self.splits)
        return Facts("rare", rows, content, unit="points", shapes={"x": (4,)}, classes=CLASSES)


def points(n: int, seed: int) -> Points:
    generator = torch.Generator().manual_seed(seed)
    kind = (torch.rand(n, generator=generator)[:, None] > torch.tensor([0.7, 0.95])).sum(1)
    centers = torch.tensor([[0.0, 0, 0, 0], [1.5, 0, 0, 1], [0, 1.5, 1, 0]])
    x = centers[kind] + torch.randn(n, 4, generator=generator)
    return Points(x, kind, torch.arange(n))


def read(requests: list[list[float]], facts: Facts) -> tuple[Points, dict[int, str]]:
    return Points(torch.tensor(requests), None, torch.arange(len(requests))), {}


if __name__ == "__main__":
    sys.exit(main(task=RareTask, data=RareData, read=read))
