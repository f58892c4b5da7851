"""Computing predictions as an evaluation does: batches of its size, on its device and precision."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor

from ..cli.launch import launched
from ..contract import Inputs, Rows
from ..data.open_files import check_open_files
from ..data.order import BatchShard, EpochPlan
from ..data.resident import ResidentLoader
from ..data.rows import as_rows
from ..data.streaming import RowsReader, StreamConfig, StreamingLoader, check_shared_memory
from ..decisions import Decisions, decide
from ..fast.settings import device_settings
from ..hardware import Machine, free_shared_memory
from ..task import Task, check_batch
from .answers import Answers, answers_of
from .trained import Trained

Answer = list[Any] | str  # a row's cells, or why it has none
NOT_FINITE = "has no finite prediction"
NOT_READ = "was not read"


@contextmanager
def predictions(
    trained: Trained, inputs: Inputs, config: dict[str, Any], machine: Machine, everything: bool
) -> Iterator[Iterator[tuple[Answers, list[Answer]]]]:
    """Yield the answers for the rows of an input, step by step, in their order, on rank 0.

    `config` is the run's, with what else than in the run is asked for. `everything` is whether the
    probabilities of all classes are wanted.
    """
    rows = as_rows(inputs.rows)
    nbytes = rows.nbytes if rows.in_memory else None
    facts = replace(trained.facts, nbytes=nbytes)
    decided = decide(config, machine, facts, launched=launched())
    with ExitStack() as closing:
        shard = BatchShard(config["data"]["eval_batch_size"], *_join(closing))
        plan = EpochPlan(rows.n, shard, lengths=rows.lengths)
        predictor = Predictor(trained.task, decided)
        closing.enter_context(device_settings(predictor.device))
        batches = closing.enter_context(predictor.loading(rows, plan, decided))
        ragged = rows.lengths is not None
        found = predictor.answers(batches, trained, ragged, everything)
        yield _of_all_ranks(found, inputs.problems, shard, rows.n)


class Predictor:
    """A task on this process's device, in the precision of an evaluation."""

    def __init__(self, task: Task, decided: Decisions) -> None:
        on_gpu = decided.accelerator.value == "cuda"
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        trainer = L.Trainer(
            accelerator=decided.accelerator.value,
            devices=[local_rank] if on_gpu else 1,
            precision=decided.precision.value,
            deterministic=decided.deterministic.value,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        self.device = trainer.strategy.root_device
        if on_gpu:
            torch.cuda.set_device(self.device)
        self.precision = trainer.precision_plugin
        if task.flags.channels_last:
            task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision.convert_module(task)
        self.task = task.to(self.device).eval()

    @contextmanager
    def loading(self, rows: Rows, plan: EpochPlan, decided: Decisions) -> Iterator[Iterable[Any]]:
        """Yield the batches of new rows, read by workers unless they are in memory."""
        if rows.in_memory:
            yield ResidentLoader(rows, plan, self.device)
            return
        workers, devices = min(decided.workers.value, len(plan)), plan.shard.world_size
        config = StreamConfig(workers, decided.prefetch.value, self.device)
        reader = rows.reader(config) if hasattr(rows, "reader") else RowsReader(rows)
        size = reader.slot_size(plan.shard.batch_size)
        check_open_files(workers)
        check_shared_memory(config, size, devices, free_shared_memory())
        loader = StreamingLoader(reader, plan, config)
        try:
            yield loader
        finally:
            loader.end()

    def answers(
        self, batches: Iterable[Any], trained: Trained, lengths: bool, everything: bool
    ) -> Iterator[tuple[Answers, dict[int, Answer]]]:
        """Yield the answers of each batch by the indices of its rows, and what they consist of.

        The host works on a batch while the GPU computes the next one.
        """
        answers, before = None, None
        for batch in batches:
            if answers is None:
                check_batch(batch)
            predictions = self._predict(batch)
            if answers is None:
                several = trained.facts.several
                answers = answers_of(predictions, trained.classes, lengths, everything, several)
            finite = predictions.isfinite().reshape(len(predictions), -1).all(1)
            now = _Copied((batch.row, finite, *answers.reduced(predictions)))
            if before is not None:
                yield answers, _by_row(answers, before.wait())
            before = now
        if answers is not None and before is not None:
            yield answers, _by_row(answers, before.wait())

    @torch.inference_mode()
    def _predict(self, batch: Any) -> Tensor:
        """Return the task's predictions (n, …); 16-bit floats as float32."""
        with self.precision.predict_step_context():
            predictions = self.task.predict(self.task(self.precision.convert_input(batch)))
        short = predictions.dtype in (torch.bfloat16, torch.float16)
        return predictions.float() if short else predictions


class _Copied:
    """Tensors on their way from a GPU to the host."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts, self.event = list(parts), None
        if parts[0].device.type == "cuda":
            pinned = [torch.empty_like(part, device="cpu", pin_memory=True) for part in parts]
            self.sources = parts  # their memory stays theirs
            self.parts = [
                to.copy_(part, non_blocking=True) for to, part in zip(pinned, parts, strict=True)
            ]
            self.event = torch.cuda.Event()
            self.event.record()

    event: torch.cuda.Event | None

    def wait(self) -> list[Tensor]:
        if self.event is not None:
            self.event.synchronize()
        return [part.cpu() for part in self.parts]


def _by_row(answers: Answers, parts: Sequence[Tensor]) -> dict[int, Answer]:
    """Return the answers by the indices of their rows, without padding."""
    row, finite, *reduced = parts
    cells = answers.cells(*reduced)
    triples = zip(row.tolist(), finite.tolist(), cells, strict=True)
    return {i: each if ok else NOT_FINITE for i, ok, each in triples if i >= 0}


def _join(closing: ExitStack) -> tuple[int, int]:
    """Return this process's rank and their number; connect them if there are several."""
    rank, processes = (int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("WORLD_SIZE", 1)))
    if processes > 1:
        torch.distributed.init_process_group("gloo")  # what they exchange is on the CPU
        closing.callback(torch.distributed.destroy_process_group)
    return rank, processes


def _of_all_ranks(
    found: Iterator[tuple[Answers, dict[int, Answer]]],
    problems: Mapping[int, str],
    shard: BatchShard,
    n: int,
) -> Iterator[tuple[Answers, list[Answer]]]:
    """Yield the answers of all processes for the next rows, in the rows' order, on rank 0.

    `problems` say why rows have none.
    """
    step = shard.batch_size * shard.world_size
    for start, (answers, known) in zip(range(0, n, step), found, strict=True):
        rows = range(start, min(start + step, n))
        known |= {i: problems[i] for i in rows if i in problems}
        if shard.world_size > 1:
            every: Any = [None] * shard.world_size if shard.rank == 0 else None
            torch.distributed.gather_object(known, every)
            known = {i: answer for each in every or [] for i, answer in each.items()}
        yield answers, [known.get(i, NOT_READ) for i in rows] if shard.rank == 0 else []
