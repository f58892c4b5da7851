"""The base class of data: it builds loaders for the splits, on any number of devices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from .. import hardware
from ..contract import Facts, Rows, Splits, Uniforms, count
from ..decisions import Decisions, LoaderName, decide
from ..errors import UserError
from .first_batch import FirstChecked, wrong_with
from .open_files import check_open_files
from .order import BatchShard, EpochPlan, fixed_lengths
from .resident import ResidentLoader
from .rows import as_rows, with_size
from .streaming import RowsReader, StreamConfig, StreamingLoader, check_shared_memory

Loader = ResidentLoader | StreamingLoader
EVAL_BATCH_SIZE = 1024  # if the data set no other


@dataclass(frozen=True)
class DataFlags:
    """The settings that the engine adds to those of every Data: see cli/arguments.py."""

    global_batch_size: int | None = None
    loader: LoaderName | None = None
    workers: int | None = None
    prefetch: int = 2
    seed: int | None = None


class Data(L.LightningDataModule):
    """The base class of a project's data: the defaults of contract.py, and the loaders.

    Args:
        batch_size: training rows that one device computes at once: the micro-batch.
        eval_batch_size: rows per step and device in validation, test and prediction.
    """

    splits: Splits
    may_change: ClassVar[frozenset[str]] = frozenset()
    gpu_decoder: bool = False  # whether the setting `decoder` has an effect: cpu or gpu
    sample_weights: Tensor | None = None
    flags = DataFlags()

    def __init__(self, batch_size: int = 128, eval_batch_size: int = EVAL_BATCH_SIZE) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size

    def facts(self) -> Facts:
        raise UserError(f"{type(self).__name__} has no facts(): see engine/contract.py.")

    def augment(self, batch: Any, uniforms: Uniforms) -> Any:
        return batch

    def check_augmented(self, batch: Any, augmented: Any) -> str | None:
        """Return what is wrong with the first batch that augment() returned, or None."""
        return wrong_with(augmented, batch)

    def artifacts(self) -> Mapping[str, Path | bytes]:
        return {}

    def test_columns(self) -> Mapping[str, Sequence[Any]]:
        return {}

    @cached_property
    def decisions(self) -> Decisions:
        """The command line's decisions; without a command line, those for one CPU device."""
        batches = {"batch_size": self.batch_size, "eval_batch_size": self.eval_batch_size}
        config = {"data": asdict(self.flags) | batches, "trainer": {"accelerator": "cpu"}}
        return decide(config, hardware.this_machine(), with_size(self.facts(), self.splits))

    @property
    def batch_lengths(self) -> int:
        """The number of different lengths that training batches have."""
        lengths = as_rows(self.splits.train).lengths
        return 1 if lengths is None else len(fixed_lengths(lengths))

    def train_dataloader(self) -> Loader:
        """Return the loader of the training split; UserError if it has too few rows for a step."""
        shard, rows = self._shard(self.batch_size), self._rows(self.splits.train)
        if rows.n < shard.step:
            fits = max(rows.n // (shard.step // shard.batch_size), 1)
            raise UserError(
                f"The training split has {rows.n} {self.facts().unit}, fewer than one step of"
                f" {shard.step}. Set --data.batch_size to {fits} or less."
            )
        seed, weights = self.decisions.seed.value, self.sample_weights
        overfits = getattr(self.trainer, "overfit_batches", 0) > 0
        position = partial(self._position, shard.batches(rows.n))
        plan = EpochPlan(rows.n, shard, seed, position, weights, rows.lengths, overfits)
        overridden = type(self).augment is not Data.augment  # the default costs a call per batch
        name = f"{type(self).__name__}.augment()"
        augment = FirstChecked(self.augment, self.check_augmented, name) if overridden else None
        return self._loader(rows, plan, augment)

    def eval_loader(self, split: Any, first: int | None = None) -> Loader:
        """Return a loader for evaluation: this process's shard of a split, in order.

        If `first` is set, every process gets all of the split's first `first` rows.
        """
        sharded = first is None
        rows = self._rows(split) if sharded else as_rows(split)
        n = min(rows.n, first or rows.n)
        size = self.eval_batch_size
        shard = self._shard(size) if sharded else BatchShard(size)
        plan = EpochPlan(n, shard, lengths=rows.lengths)
        return self._loader(rows, plan, by_trainer=sharded)

    def val_dataloader(self) -> Loader:
        return self.eval_loader(self.splits.val)

    def test_dataloader(self) -> Loader:
        if not count(self.splits.test):
            notes = "".join(f" {remark}." for remark in self.facts().remarks)
            raise UserError(
                f"The data '{self.facts().name}' have no test split to evaluate: add one.{notes}"
            )
        return self.eval_loader(self.splits.test)

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Return the batch on the device; the engine's loaders have already moved it there."""
        row = getattr(batch, "row", None)
        if row is not None and row.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def teardown(self, *_: Any, **__: Any) -> None:
        for kind in ("train_dataloader", *map("{}_dataloaders".format, ("val", "test", "predict"))):
            if isinstance(loader := getattr(self.trainer, kind), StreamingLoader):
                loader.end()

    on_exception = teardown

    def _rows(self, split: Any) -> Rows:
        """Return a split as rows, loaded into memory unless the loader is `streaming`."""
        rows = as_rows(split)
        if not rows.in_memory and self.decisions.loader.value != "streaming":
            if not hasattr(rows, "load"):
                loader = self.decisions.loader.value
                raise UserError(
                    f"data.loader is {loader}, but these rows can only be streamed: leave it unset."
                )
            return as_rows(rows.load())
        return rows

    def _loader(
        self, rows: Rows, plan: EpochPlan, augment: Any = None, by_trainer: bool = True
    ) -> Loader:
        if rows.in_memory:
            mapped = self.decisions.loader.value == "mapped"
            return ResidentLoader(rows, plan, self._device(), mapped, augment)
        config = self._stream_config(by_trainer)
        reader = rows.reader(config) if hasattr(rows, "reader") else RowsReader(rows)
        devices = self.trainer.num_devices if self.trainer is not None and by_trainer else 1
        loaders = devices * (2 if config.endless else 1)  # each process also has one to validate
        size = reader.slot_size(plan.shard.batch_size)
        check_open_files(config.workers * (2 if config.endless else 1))
        check_shared_memory(config, size, loaders, hardware.free_shared_memory())
        return StreamingLoader(reader, plan, config, augment)

    def _stream_config(self, by_trainer: bool) -> StreamConfig:
        fits = by_trainer and self.trainer is not None and self.trainer.state.fn == "fit"
        decided = self.decisions
        workers, prefetch = decided.workers.value, decided.prefetch.value
        return StreamConfig(workers, prefetch, self._device(), fits, decided.decoder.value)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _shard(self, batch_size: int) -> BatchShard:
        if self.trainer is None:
            return BatchShard(batch_size)
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        in_turn = self.decisions.step_version.value == 1
        accumulate = self.trainer.accumulate_grad_batches
        return BatchShard(batch_size, rank, processes, accumulate, in_turn)

    def _position(self, batches: int) -> tuple[int, int]:
        """Return the next epoch and batch, from the progress that the Trainer saves.

        An epoch has `batches`, or fewer if trainer.limit_train_batches says so. (Lightning counts
        one more in the last epoch of StochasticWeightAveraging.)
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return divmod(done, min(int(loop.max_batches), batches))


def at_least(least: float, **settings: float | None) -> None:
    """Raise UserError, naming the key, if a setting of the data is below `least`."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise UserError(f"data.{name} is {value}; it must be at least {least}.")
