"""What the engine asks of a task: the page to read before you write another one.

A project is four things, which its `__main__.py` names:

    main(task=".classifier:ImageClassifier",   # a Task: what is learned
         data=".data:ImageData",               # a Data: what it is learned from
         read=".engine.images.read:read",      # how the service reads a request; may be left out
         pictures=".pictures:draw",            # what is drawn at the end; may be left out
         links={"data.num_classes": "model.num_classes"})  # settings that the data know

The engine knows rows, batches, splits, named losses and named metrics, and nothing of what they are
about. It compiles the step, trains on one device or many, logs, saves, resumes to the same bits,
scores, serves, measures and repeats. `tests/engine/toys/` has a project in one file for each kind
of task: start from the one that is closest.

**A batch** is a NamedTuple of tensors with n rows each, or None. Its field `row` says which row of
the split each one is: -1 where a row only fills up the last batch of an evaluation. Training
batches have no such rows.

**A split** is a batch of all its rows, if they fit in memory; the engine gathers from it on the
device. Otherwise it is a `Rows`, of which the engine takes batches in worker processes. `Rows` may
also have `reader(config)`, which returns a faster way to fill batches (`engine/data/streaming.py`),
and `load()`, which returns a batch of all rows for `--data.loader resident`.

**A task** is a LightningModule with these members. Only the first seven have no default.

- `network`: a module; it is compiled in place, and its weights are the keys "network.*".
- `best`: the column of metrics.csv that decides which weights are kept, and in which direction.
- `inputs`: the fields of a batch that `forward` reads; in a request to the service, the others are
  None.
- `forward(batch)` returns the outputs, any nesting of tensors.
- `loss(outputs, batch)` returns a scalar, or named scalars whose sum is minimized.
- `totals(outputs, batch)` returns each metric as (sum, count): scalars, or one for each class. The
  engine adds them up over batches and devices and divides once, so that a metric never is a mean of
  means. "loss" has to be among them. Rows with `row` -1 must count for nothing. A metric of several
  classes is the mean over those that have a count (macro-F1: 2 TP and 2 TP + FP + FN).
- `configure_optimizers()` is Lightning's own.
- `initialize()` loads the weights that a new run starts from. It is not called for a run that
  resumes or is evaluated. It returns what to print, or None.
- `loss_weight(batch)` says what the loss is a mean over, where that is not rows: the number of
  tokens, the sum of weights. Parts of a step then count by it. The loss must be finite where it is
  0.
- `predict(outputs)` returns a tensor (n, …): what is written, scored and served. Of (n, classes),
  where the data name that many classes, the most probable one is named.
- `target(batch)` returns a tensor (n, …) to hold predictions against.
- `scores(predictions, targets)` returns metrics that are no ratio of sums (AUROC, mAP), from all
  rows of a split in order, on the CPU. Where rows differ in length, shorter ones end with zeros.
- `check(outputs, batch)` returns what is wrong with the outputs of a first batch, or None.
- `for_export()` returns a copy of the task that is ready for export.
- `may_change`: the settings that may change when a run is resumed, because they decide nothing of
  what is learned.

`forward`, `loss`, `totals` and `loss_weight` never call `.item()`, print or log: the host would
wait for the GPU at each step. What `loss` returned is logged as train/loss, `totals` as train/NAME,
val/NAME and test/NAME. A task may override `training_step` and optimize by hand
(`automatic_optimization = False`); it keeps records, checkpoints and exact resumes, and is not
compiled.

`__init__` calls `self.save_hyperparameters()`: its arguments are the settings under `model:`, as
those of the data are under `data:`. `configure_callbacks` and `configure_gradient_clipping` are the
engine's. Parts of a network may be frozen and unfrozen in mid-run (`engine.freeze`,
`engine.unfreeze`): the optimizer has to have all weights from the start.

**Data** are a LightningDataModule with `splits`, `facts()` and, if they like, the rest of `Data`
below. What `facts` needs is read in `__init__`, and no more. `augment(batch, uniforms)` changes
training batches on the device: `uniforms(k)` are k random numbers for each row, float32 (n, k) in
[0, 1), the same for a row whatever batch it is in, wherever a run resumes. A batch that `augment`
is given holds one or several whole batches of `batch_size` rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

from torch import Tensor, nn

Uniforms = Callable[[int], Tensor]


class Batch(Protocol):
    """Any NamedTuple with a field `row`, int64 (n,); the others are tensors (n, …) or None."""

    @property
    def row(self) -> Tensor: ...
    def _replace(self, **fields: Any) -> Self: ...
    def _asdict(self) -> dict[str, Any]: ...


class Rows(Protocol):
    """One split. `engine.TensorRows` is one for rows that are tensors in memory."""

    n: int
    in_memory: bool  # true of TensorRows alone; else take() is called in worker processes
    lengths: Tensor | None  # int32 (n,) where rows differ in length, else None
    uniforms: int  # how many random numbers take() uses; augment() gets those after them

    def take(self, index: Tensor, length: int | None, uniforms: Uniforms | None) -> Batch:
        """Return the rows at `index` (int64, on the CPU), cut or padded to `length` if given.

        `uniforms` is None in evaluation.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """A data set: trained on, chosen by and, once, scored on; each a Rows or a Batch."""

    train: Any
    val: Any
    test: Any = None

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each split has, such as {"train": 1077, "val": 360, "test": 360}."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: count(part) for name, part in parts.items()}


class Best(NamedTuple):
    """The column of metrics.csv that decides which weights are best, such as "val/accuracy".

    `format` is how that metric is printed: ".2%" for a share.
    """

    metric: str
    mode: Literal["min", "max"]
    format: str = ".4f"


@dataclass(frozen=True)
class Facts:
    """What a run's record holds about its data: values only, no sentences that are read back.

    `unit` is what a row is called in messages; `classes` is empty where there are none; `shapes`
    are those of the inputs, without n; `nbytes` is filled in where the rows are in memory; `extra`
    is JSON; `remarks` are printed at the start.
    """

    name: str
    rows: dict[str, int]
    fingerprint: str  # SHA-256 of the content: engine.digest(splits)
    unit: str = "rows"
    classes: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    nbytes: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class Task(Protocol):
    """The members of a task, as above. Subclass `engine.Task`, which has the defaults."""

    network: nn.Module
    best: Best
    inputs: ClassVar[tuple[str, ...]]
    may_change: ClassVar[frozenset[str]]

    def forward(self, batch: Any) -> Any: ...
    def loss(self, outputs: Any, batch: Any) -> Tensor | dict[str, Tensor]: ...
    def totals(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]: ...
    def configure_optimizers(self) -> Any: ...
    def initialize(self) -> str | None: ...
    def loss_weight(self, batch: Any) -> Tensor | None: ...
    def predict(self, outputs: Any) -> Tensor: ...
    def target(self, batch: Any) -> Tensor | None: ...
    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]: ...
    def check(self, outputs: Any, batch: Any) -> str | None: ...
    def for_export(self) -> Any: ...


class Data(Protocol):
    """The members of data. Subclass `engine.Data`, which has the defaults."""

    splits: Splits
    batch_size: int  # rows on one device at once: an argument of __init__
    eval_batch_size: int
    may_change: ClassVar[frozenset[str]]
    sample_weights: Tensor | None  # float64 (train rows,): drawn with replacement, by these weights

    def facts(self) -> Facts: ...
    def augment(self, batch: Any, uniforms: Uniforms) -> Any: ...
    def artifacts(self) -> dict[str, Path]:
        """Return files that belong to the weights (a tokenizer), by name.

        A run keeps copies in its folder's artifacts/, and their SHA-256 in run.json.
        """
        ...


# Requests to a service become a batch, as evaluation would show it, of those that can be read; the
# others have a reason each, by their place among the requests.
Read = Callable[[list, Facts], tuple[Any, dict[int, str]]]


def count(split: Any) -> int:
    """Return how many rows a split has."""
    if split is None:
        return 0
    return split.n if hasattr(split, "n") else len(split.row)
