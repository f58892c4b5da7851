"""The baselines without a library around the loop: the usual loop, the best eager one, a script."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from loop import Loop
from my_project.engine.monitor.clock import Clock
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from .workloads import MOST_NORM, RATE, VOCABULARY, WEIGHT_DECAY, TextWorkload

Text = dict[str, Tensor]  # "input_ids", int64 (length,), and "labels", int64 ()


def texts(work: TextWorkload, split: str) -> list[Text]:
    """Return the texts of train or val, distributed as those of the project's `synthetic`."""
    count, seed = {"train": (work.train, 0), "val": (work.val, 1)}[split]
    generator = torch.Generator().manual_seed(seed)
    some = work.lengths
    lengths = torch.randn(count, generator=generator) * some.spread + some.mean
    lengths = lengths.clamp(some.shortest, some.longest).int()
    tokens = torch.randint(2, VOCABULARY, (int(lengths.sum()),), generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    parts = tokens.split(lengths.tolist())
    return [{"input_ids": ids, "labels": y} for ids, y in zip(parts, labels, strict=True)]


def padded(rows: list[Text]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch padded to its longest text: ids and mask, int64 (n, length), and labels."""
    ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    mask = pad_sequence([torch.ones_like(row["input_ids"]) for row in rows], batch_first=True)
    return ids, mask, torch.stack([row["labels"] for row in rows])


def bert(work: TextWorkload) -> nn.Module:
    """Return BERT with random weights; if the workload is tiny, a tiny one."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {}
    if work.network != "bert":
        sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 64}
    config = BertConfig(vocab_size=VOCABULARY, num_labels=2, attn_implementation="sdpa", **sizes)
    return BertForSequenceClassification(config)


def train_eagerly(work: TextWorkload, loop: Loop, best: bool) -> None:
    """Train with the usual step, or with the best eager one."""
    step = (best_step if best else usual_step)(bert(work), loop.device)
    loop.train(batches(work, "train", pin=best), step)


def batches(work: TextWorkload, split: str, pin: bool = False) -> DataLoader:
    trains = split == "train"
    return DataLoader(
        texts(work, split),
        work.batch,
        shuffle=trains,
        drop_last=trains,
        collate_fn=padded,
        pin_memory=pin and work.device == "cuda",
    )


def usual_step(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """Float32; the host waits for the loss in each step."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)

    def step(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MOST_NORM)
        optimizer.step()
        loss.item()
        return loss.detach()

    return step


def best_step(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """bf16, TF32, fused AdamW, pinned memory; the host never waits.

    transformers waits in each step to see whether a mask (n, length) hides anything; one with four
    dimensions is taken as it is.
    """
    torch.set_float32_matmul_precision("high")
    model.to(device).train()
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY, fused=True
    )

    def step(*batch: Tensor) -> Tensor:
        ids, mask, labels = (part.to(device, non_blocking=True) for part in batch)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):  # slow on a CPU
            real = mask.bool()[:, None, None, :]
            loss = model(input_ids=ids, attention_mask=real, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MOST_NORM, foreach=True)
        optimizer.step()
        return loss.detach()

    return step


def fine_tune(work: TextWorkload, out: Path) -> None:
    """Train as the usual script: it validates after each epoch, and saves the weights once."""
    device = torch.device(work.device)
    model, clock = bert(work), Clock(device)
    step = usual_step(model, device)
    train, val = batches(work, "train"), batches(work, "val")
    losses = []
    for epoch in range(work.epochs):
        model.train()
        total = 0.0
        for batch in train:
            total += float(step(*batch))
            clock.step(work.batch)
        clock.end_epoch()
        losses.append(total / len(train))
        right = sum(right_in(model, val, device))
        clock.end_validation()
        print(f"epoch {epoch}  loss {losses[-1]:.4f}  accuracy {right / work.val:.2%}", flush=True)
    torch.save(model.state_dict(), out.with_name("weights.pt"))
    out.write_text(json.dumps(clock.found(losses), indent=2) + "\n")


@torch.no_grad()
def right_in(model: nn.Module, val: DataLoader, device: torch.device) -> Iterator[int]:
    """Yield the number of texts in each batch whose class is right."""
    model.eval()
    for ids, mask, labels in val:
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        yield int((logits.argmax(1) == labels.to(device)).sum())
