"""Plain float32 training on texts, and a naive Bayes, for a comparison of accuracies with ours."""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from my_project.data import TextData, languages
from my_project.engine.model.optimizers import build_schedule
from my_project.engine.text.batch import TextBatch, attention_mask
from my_project.networks import build_network
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn import functional as F

WARMUP = 0.1  # share of the steps, as TextClassifier's default
EVAL_BATCH = 128


@dataclass(frozen=True)
class Task:
    """A recipe, with which ours trains, and its content."""

    recipe: str
    settings: dict[str, Any]
    flags: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        return self.settings["trainer"]["max_epochs"]


def task(name: str, asked: argparse.Namespace) -> Task:
    """Return the task of that name, and print how well naive Bayes does it."""
    for pairs in (False, True):
        what = "letters and pairs of letters" if pairs else "letters"
        print(f"naive Bayes of {what}: {naive_bayes(pairs):.2%}")
    recipe = f"{name}.yaml"
    return Task(recipe, yaml.safe_load((asked.project / "configs" / recipe).read_text()))


def naive_bayes(pairs: bool) -> float:
    """Return the validation accuracy of multinomial naive Bayes: of letters, or also of pairs."""
    splits = languages()
    counts = CountVectorizer(analyzer="char", ngram_range=(1, 2 if pairs else 1))
    model = make_pipeline(counts, MultinomialNB()).fit(splits.train.first, splits.train.labels)
    return float(model.score(splits.val.first, splits.val.labels))


def train(task: Task, epochs: int, seed: int) -> float:
    """Train in float32 without compiling, in shuffled, padded batches; return the accuracy."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    of_data, of_model = task.settings["data"], task.settings["model"]
    data = TextData(**of_data)
    train, val = data.splits.train.batch, data.splits.val.batch
    network = build_network(of_model["network"], data.num_classes, data.vocab_size).to(device)
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": of_model["weight_decay"]}]
    groups += [{"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=of_model["learning_rate"])
    steps = epochs * (len(train.row) // data.batch_size)
    schedule = build_schedule(optimizer, "one_cycle", WARMUP, steps)
    most = task.settings["trainer"]["gradient_clip_val"]
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(train.row)).split(data.batch_size):
            if len(rows) < data.batch_size:
                break
            batch = padded(train, rows, device)
            optimizer.zero_grad()
            F.cross_entropy(logits(network, batch), batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), most)
            optimizer.step()
            schedule.step()
    network.eval()
    right = 0
    with torch.no_grad():
        for rows in torch.arange(len(val.row)).split(EVAL_BATCH):
            batch = padded(val, rows, device)
            right += int((logits(network, batch).argmax(1) == batch.labels).sum())
    return right / len(val.row)


def padded(split: TextBatch, rows: Tensor, device: torch.device) -> TextBatch:
    """Return rows of a split, padded to the longest among them, on the device."""
    longest = int(split.lengths[rows].max())
    parts = {name: part[rows] for name, part in split._asdict().items() if part is not None}
    parts["tokens"] = parts["tokens"][:, :longest]
    return split._replace(**{name: part.to(device) for name, part in parts.items()})


def logits(network: nn.Module, batch: TextBatch) -> Tensor:
    return network(batch.tokens, None, attention_mask(batch))
