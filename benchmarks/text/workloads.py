"""The workloads of texts, and the rows of each."""

import json
from argparse import Namespace
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from workload import ON_SEVERAL, STEP_GRAPH, Row, Workload

VOCABULARY = 30522
RATE, WEIGHT_DECAY, MOST_NORM = 2e-5, 0.01, 1.0  # of every row; MOST_NORM clips the gradients
NONDETERMINISTIC = {"trainer.deterministic": "false"}
EXACT = "limit-deterministic"


@dataclass(frozen=True)
class Lengths:
    """How many tokens a text has: normally distributed, by default as MRPC's pairs."""

    mean: int = 53
    spread: int = 16
    shortest: int = 16
    longest: int = 103


@dataclass(frozen=True)
class TextWorkload(Workload):
    """An encoder with random weights, on random tokens with random labels of two classes.

    The labels can't be learned, so a row is valid if its loss did not rise by more than MOST_RISE.
    """

    lengths: Lengths = field(default_factory=Lengths)

    PACKAGE: ClassVar[str] = "text"
    UNIT: ClassVar[str] = "texts/s"
    THINGS: ClassVar[str] = "texts"
    MOST_RISE: ClassVar[float] = 0.3
    ROWS: ClassVar[dict[str, Row]] = {
        "usual": Row("the usual loop"),
        "eager": Row("the best eager loop"),
        "trainer": Row("transformers' Trainer"),
        "trainer-compiled": Row("transformers' Trainer, torch.compile"),
        "ours": Row("ours", {}, EXACT),
        "ours-step-graph": Row("ours, step graph", STEP_GRAPH, EXACT),
        "ours-nondeterministic": Row("ours, nondeterministic", NONDETERMINISTIC),
        "ours-step-graph-nondeterministic": Row(
            "ours, step graph, nondeterministic", STEP_GRAPH | NONDETERMINISTIC
        ),
        "limit-deterministic": Row("the limit, deterministic", None, EXACT),
        "limit-uncompiled-deterministic": Row("the limit, deterministic, uncompiled", None, EXACT),
        "limit": Row("the limit"),
        "limit-uncompiled": Row("the limit, uncompiled"),
        **ON_SEVERAL,
    }
    OF_SEVERAL: ClassVar[tuple[str, ...]] = ("ours", "ours-step-graph", EXACT, *ON_SEVERAL)

    def flags(self, row: str, asked: Namespace) -> dict[str, Any]:
        options = {"rows": self.train, "vocabulary": VOCABULARY, **asdict(self.lengths)}
        several = {"trainer.devices": self.devices} if row in ON_SEVERAL else {}
        batch = self.batch_of_each if several else self.batch
        return several | {
            "config": asked.project / "configs" / "synthetic.yaml",
            "data.options": json.dumps(options),
            "data.batch_size": batch,
            "model.network": self.network,
            "trainer.gradient_clip_val": MOST_NORM,
            "trainer.max_epochs": self.epochs,
        }

    def tiny(self) -> "TextWorkload":
        few = Lengths(mean=12, spread=6, shortest=4, longest=24)
        small = replace(self, network="tiny_encoder", batch=4, train=24, val=8, lengths=few)
        return replace(small, epochs=2, steps=8)


_BERT = TextWorkload(
    "BERT-base, 3,668 texts of 53 tokens on average, 103 at most, batch 32",
    tuple(name for name in TextWorkload.ROWS if name not in ON_SEVERAL),
    network="bert",
    batch=32,
    epochs=21,
    train=3668,
    val=407,
    longest=600.0,
    expected=150.0,
)
TEXT_WORKLOADS = {
    "bert-32": _BERT,
    "bert-128": replace(_BERT, title=_BERT.title.replace("batch 32", "batch 128"), batch=128),
    "bert-512": replace(
        _BERT,
        title="BERT-base, 3,668 texts of 200 tokens on average, 512 at most, batch 32",
        epochs=8,
        lengths=Lengths(mean=200, spread=120, longest=512),
    ),
    "bert-finetuning": replace(
        _BERT,
        title="BERT-base, fine-tuned for 3 epochs on 3,668 texts, from start to exit, batch 32",
        rows=("usual", "ours"),
        epochs=3,
        whole_process=True,
    ),
}
