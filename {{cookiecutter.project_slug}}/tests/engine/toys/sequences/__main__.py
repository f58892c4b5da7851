"""A toy: sequences of several lengths, whose loss is a mean over tokens: guess the next number."""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .engine import Best, Data, Facts, Splits, Task, TensorRows, digest, main

NUMBERS = 12  # 1 to 11; 0 is padding
LONGEST = 40


class Sequences(NamedTuple):
    """tokens: int64 (n, length), 0 after the end; following: the token after the last, (n,)."""

    tokens: Tensor
    following: Any  # a Tensor, or None in a request
    row: Tensor


class Guesser(nn.Module):
    """Returns logits (n, length, numbers) of the token that comes after each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUMBERS, width)
        self.before = nn.Conv1d(width, width, 3)
        self.head = nn.Linear(width, NUMBERS)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = nn.functional.pad(self.embed(tokens).transpose(1, 2), (2, 0))
        return self.head(self.before(embedded).relu().transpose(1, 2))


class NextTask(Task):
    best = Best("val/accuracy", "max", ".2%")
    inputs = ("tokens",)

    def __init__(self, width: int = 32, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = Guesser(width)

    def forward(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        """Return logits (n, length, numbers), and those after each row's end (n, numbers)."""
        logits = self.network(batch.tokens)
        last = (batch.tokens > 0).sum(1) - 1
        return logits, logits[torch.arange(len(last), device=last.device), last.clamp(min=0)]

    def loss(self, outputs: tuple[Tensor, Tensor], batch: Sequences) -> Tensor:
        total, count = self._summed(outputs, batch)
        return total / count.clamp(min=1)

    def loss_weight(self, batch: Sequences) -> Tensor | None:
        return (batch.tokens[:, 1:] > 0).sum()

    def totals(
        self, outputs: tuple[Tensor, Tensor], batch: Sequences
    ) -> dict[str, tuple[Tensor, Tensor]]:
        real = batch.row >= 0
        rows = batch._replace(tokens=batch.tokens * real[:, None])
        right = (outputs[1].argmax(1) == batch.following) & real
        return {"loss": self._summed(outputs, rows), "accuracy": (right.sum(), real.sum())}

    def _summed(self, outputs: tuple[Tensor, Tensor], batch: Sequences) -> tuple[Tensor, Tensor]:
        logits, wanted = outputs[0][:, :-1].flatten(0, 1), batch.tokens[:, 1:].flatten()
        return cross_entropy(logits, wanted, ignore_index=0, reduction="sum"), (wanted > 0).sum()

    def predict(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return outputs[1].softmax(1)

    def target(self, batch: Sequences) -> Tensor | None:
        return batch.following

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.network.parameters(), self.hparams["learning_rate"])


class SequenceData(Data):
    def __init__(self, batch_size: int = 32, eval_batch_size: int = 48) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.splits = Splits(*(sequences(n, seed) for seed, n in enumerate((640, 200, 200))))

    def facts(self) -> Facts:
        shapes: dict[str, tuple[int, ...]] = {"tokens": (LONGEST,)}
        rows, content = self.splits.rows, digest(self.splits)
        return Facts("steps", rows, content, unit="sequences", shapes=shapes, classes=NAMES)


NAMES = tuple(str(number) for number in range(NUMBERS))


def sequences(n: int, seed: int) -> TensorRows:
    """Numbers that go on by the same step: 2 5 8 11 3 …; the first numbers tell the rest."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(3, LONGEST + 1, (n,), generator=generator, dtype=torch.int32)
    start, step = torch.randint(0, NUMBERS - 1, (2, n, 1), generator=generator)
    every = (start + step * torch.arange(LONGEST + 1)) % (NUMBERS - 1) + 1
    tokens = every[:, :LONGEST] * (torch.arange(LONGEST) < length[:, None])
    following = every[torch.arange(n), length.long()]
    return TensorRows(Sequences(tokens, following, torch.arange(n)), length, ["tokens"])


def read(
    requests: list[list[int]], facts: Facts, shorten: bool = False
) -> tuple[Sequences, dict[int, str], dict[int, dict]]:
    (longest,), problems, notes = facts.shapes["tokens"], dict[int, str](), dict[int, dict]()
    used = []
    for i, request in enumerate(requests):
        if len(request) > longest and not shorten:
            problems[i] = f"has {len(request)} numbers; at most {longest} fit"
            continue
        if len(request) > longest:
            notes[i] = {"shortened": True}
        used.append(request[-longest:])
    tokens = torch.zeros(len(used), max(map(len, used), default=1), dtype=torch.int64)
    for row, request in enumerate(used):
        tokens[row, : len(request)] = torch.tensor(request)
    return Sequences(tokens, None, torch.arange(len(used))), problems, notes


if __name__ == "__main__":
    flags = {"shorten": "use the end of requests that are too long"}
    sys.exit(main(task=NextTask, data=SequenceData, read=read, read_flags=flags))
