"""The interface between the engine and a project. Read it before you write another task.

The parts of a project, which its `__main__.py` names. Only the first two are needed:

    main(task=".classifier:Classifier",  # a Task: the network, its loss and its metrics
         data=".data:MyData",            # a Data: the rows to train and evaluate on
         inputs=".requests:find",        # what `predict --input` finds in a file
         read=".requests:read",          # how the service reads a request
         read_flags={"strict": "help"},  # flags of `serve` that read takes
         several=".requests:several",    # the requests in a body that has several
         pictures=".pictures:draw",      # the pictures drawn at the end of a run
         look=".pictures:look",          # the training rows that `look` shows
         links={"data.num_classes": "model.num_classes"})  # settings that the data determine

The engine compiles the training step, trains on one device or many, logs, saves, resumes to the
same bits, evaluates, serves, benchmarks and reproduces runs. It works with rows, batches, splits,
named losses and named metrics; only the project knows what they mean. `tests/engine/toys/` has a
project in one file for each kind of task: start from the closest one.

**Batch**: a NamedTuple. Each field is a tensor with n rows, or None. The field `row`, int64 (n,),
is each row's index in its split, or -1 for padding. Padding fills up the last batch of an
evaluation; training batches have none.

**Split**: one batch of all its rows if they fit in memory; the engine gathers batches from it on
the device. Otherwise a `Rows`, whose `take()` the engine calls in worker processes. A `Rows` may
also have `reader(config)`, which returns a faster way to fill batches (`engine/data/streaming.py`),
and `load()`, which returns a batch of all rows for `--data.loader resident`.

**Task**: a LightningModule with the members below. Only the first seven have no default.

- `network`: an nn.Module. The engine compiles it in place. Its weights have the keys "network.*".
- `best`: the column of metrics.csv that selects the best weights, and whether high or low is best;
  the flag --best names another.
- `inputs`: the fields of a batch that `forward` reads. In a request to the service, the other
  fields are None.
- `forward(batch)` returns the outputs: tensors in any nesting.
- `loss(outputs, batch)` returns a scalar, or a dict of named scalars whose sum is minimized.
- `totals(outputs, batch)` returns a dict of metrics, "loss" among them. Each is (sum, count): two
  scalars, or two tensors with one value per class. The engine adds them up over batches and devices
  and divides once, so a metric is never a mean of means. Padding (`row` -1) must add nothing. A
  metric per class is the mean over the classes whose count is not 0. Macro-F1, for example: the
  sum is 2 TP of each class, the count 2 TP + FP + FN.
- `eval_totals(outputs, batch)` returns more totals, that only evaluation measures and logs.
- `configure_optimizers()` is Lightning's own.
- `initialize()` loads the weights that a new run starts from, and returns a line or None. The line
  is printed, and kept in run.json. The engine does not call it when a run resumes or is evaluated.
- `loss_weight(batch)` returns what the loss is a mean over, if that is not the rows: the number of
  tokens, or the sum of weights. If a step has several micro-batches, the engine weights their
  losses by it. The loss must be finite if the weight is 0.
- `predict(outputs)` returns a tensor (n, …) for predictions.csv, `scores` and the service. If it is
  (n, classes) and `facts()` names that many classes, the most probable class is written by name,
  and `validate` and `test` measure the classes (engine/monitor/class_report.py).
- `target(batch)` returns a tensor (n, …) to compare predictions with.
- `scores(predictions, targets)` returns metrics that are not a ratio of sums (AUROC, mAP). It gets
  all rows of a split, in order, on the CPU. Rows of different lengths are padded with zeros.
- `has_scores`: whether `scores` measures anything; if it depends on settings, a property.
- `check(outputs, batch)` returns what is wrong with the outputs of a first batch, or None. It
  completes the sentence "The network 'NAME' …".
- `artifacts()` returns files that the network is built from, as that of the data does.
- `for_export()` returns a copy of the task that is ready for export.
- `may_change`: the settings that may change when a run resumes, as they don't affect the result.

`forward`, `loss`, `totals`, `eval_totals` and `loss_weight` must not call `.item()`, print or log:
the host would wait for the GPU in every step. The engine logs the result of `loss` as train/loss,
and `totals` as train/NAME, val/NAME and test/NAME. A task may override `training_step` and optimize
by hand (`automatic_optimization = False`). Such a task keeps records, checkpoints and exact resume;
its step is not compiled.

`__init__` must call `self.save_hyperparameters()`. Its arguments are the settings under `model:`;
the arguments of the data are the settings under `data:`. `configure_callbacks` and
`configure_gradient_clipping` belong to the engine. `engine.freeze` and `engine.unfreeze` may be
called during a run; the optimizer must have all weights from the start.

**Data**: a LightningDataModule with `splits`, `facts()` and, where needed, the other members of
`Data` below. `__init__` reads only what `facts` needs. `facts()` is asked again when training ends:
its `extra` and `remarks` may then say more. `augment(batch, uniforms)` changes training batches on
the device; it gets one or several whole batches of `batch_size` rows at once, and returns as many
rows, with the dtype and number of axes that each field has. `uniforms(k)` returns k random numbers
for each row, float32 (n, k) in [0, 1). They depend only on the seed, the epoch and the row, not on
the batch or on where a run was resumed. A row that `sample_weights` draw again in an epoch gets
others each time.
"""

from collections.abc import Callable, Mapping, Sequence
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
    """One split. `engine.TensorRows` implements it for tensors in memory."""

    n: int
    in_memory: bool  # True only for TensorRows; otherwise worker processes call take()
    lengths: Tensor | None  # int32 (n,) if rows differ in length, else None
    uniforms: int  # number of random numbers that take() uses; augment() gets the next ones

    def take(self, index: Tensor, length: int | None, uniforms: Uniforms | None) -> Batch:
        """Return the rows at `index`, int64 (n,) on the CPU, cut or padded to `length` if given.

        `uniforms` is None in evaluation.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """A data set's splits, each a Rows or a Batch: to train, to select weights, to test once."""

    train: Any
    val: Any
    test: Any = None

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows in each split, such as {"train": 1077, "val": 360, "test": 360}."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: count(part) for name, part in parts.items()}


class Best(NamedTuple):
    """The column of metrics.csv that selects the best weights, such as "val/accuracy".

    `format` is the format specification that prints it, such as ".2%" for a ratio.
    """

    metric: str
    mode: Literal["min", "max"]
    format: str = ".4f"


@dataclass(frozen=True)
class Facts:
    """A description of the data, stored in run.json. Code reads its values back, not its remarks.

    `unit` is the word for a row in messages. `classes` is empty if there are none; `several` is
    whether a row may have any number of them. `shapes` are the shapes of the inputs without n. The
    engine sets `nbytes` if the rows are in memory. `extra` is JSON. `remarks` are printed when a
    run starts.
    """

    name: str
    rows: dict[str, int]
    fingerprint: str  # SHA-256 of the content: engine.digest(splits)
    unit: str = "rows"
    classes: tuple[str, ...] = ()
    several: bool = False
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    nbytes: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """New rows, to be predicted in their order.

    `rows` is a Rows, or a Batch of all rows, with the fields of the task's `inputs`. `columns`
    begin each line of the table of predictions, with a path, for example. `problems` maps the
    indices of rows that can't be predicted to the reasons. The `finish()` of a reader may add to it
    those of its batch. `remarks` are printed.
    """

    rows: Any
    columns: Mapping[str, Sequence[str | int]]
    problems: dict[int, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


# Returns the rows in a file or folder, as evaluation would show them to the network. The arguments
# are its path, the facts of the run's data, and the settings under `data:`, with flags of predict.
Find = Callable[[Path, Facts, Mapping[str, Any]], Inputs]


class Task(Protocol):
    """The members of a task, described above. Subclass `engine.Task`, which has the defaults."""

    network: nn.Module
    best: Best
    inputs: ClassVar[tuple[str, ...]]
    may_change: ClassVar[frozenset[str]]

    def forward(self, batch: Any) -> Any: ...
    def loss(self, outputs: Any, batch: Any) -> Tensor | dict[str, Tensor]: ...
    def totals(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]: ...
    def eval_totals(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]: ...
    def configure_optimizers(self) -> Any: ...
    def initialize(self) -> str | None: ...
    def loss_weight(self, batch: Any) -> Tensor | None: ...
    def predict(self, outputs: Any) -> Tensor: ...
    def target(self, batch: Any) -> Tensor | None: ...
    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]: ...
    @property
    def has_scores(self) -> bool: ...
    def check(self, outputs: Any, batch: Any) -> str | None: ...
    def artifacts(self) -> Mapping[str, Path | bytes]: ...
    def for_export(self) -> Any: ...


class Data(Protocol):
    """The members of data. Subclass `engine.Data`, which has the defaults."""

    splits: Splits
    batch_size: int  # rows that one device computes at once: an argument of __init__
    eval_batch_size: int
    may_change: ClassVar[frozenset[str]]
    sample_weights: Tensor | None  # float64 (train rows,): rows are drawn by them with replacement

    def facts(self) -> Facts: ...
    def augment(self, batch: Any, uniforms: Uniforms) -> Any: ...
    def artifacts(self) -> Mapping[str, Path | bytes]:
        """Return files that belong to the weights, such as a tokenizer, or their content, by name.

        A run copies them to artifacts/ in its folder and records their SHA-256 in run.json. When it
        resumes, is evaluated or served, `engine.artifact(name)` returns the copy, in the code of
        the task, of the data and of `read`. It returns None when a new run starts.
        """
        ...

    def test_columns(self) -> Mapping[str, Sequence[Any]]:
        """Return columns of predictions.csv that say which rows of the test split these are."""
        ...


# Shows training rows, the first of a run, before it is trained: a matplotlib Figure, or a text to
# print. The arguments are the batch, augmented, and the data that it is from.
Look = Callable[[Any, "Data"], Any]

# Turns requests to the service into a batch, or Rows if they differ in length, as evaluation would
# show them to the network. Requests that can't be read are left out: the first dict maps their
# indices to the reasons. A second dict may map the indices of others to what their answers say
# besides the prediction. The flags that `read_flags` adds to the verb `serve` are keyword arguments
# of type bool.
Read = Callable[..., tuple[Any, dict[int, str]] | tuple[Any, dict[int, str], dict[int, dict]]]

# Returns the requests in the body of a request to the service, or None if it is a single one.
Several = Callable[[Any, Facts], list | None]


def count(split: Any) -> int:
    """Return the number of rows in a split; 0 for None."""
    if split is None:
        return 0
    return split.n if hasattr(split, "n") else len(split.row)
