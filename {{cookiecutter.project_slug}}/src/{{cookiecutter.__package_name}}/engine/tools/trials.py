"""Measure training in trials, each in a process that runs `fit` and waits between its trials.

So several configurations can be measured in rounds, and each is loaded and compiled only once. A
waiting process frees the GPU memory that it does not use.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from .. import ranks
from ..data.rows import as_rows
from ..decisions import applied
from ..errors import UserError
from ..monitor.clock import now
from ..nvml import gpu_state
from ..run.folder import RUN_FOLDER_VARIABLE, UNLISTED_VARIABLE
from ..run.record import read_record
from .timing import ClockCallback

WARMUP_STEPS = 4  # of a trial: after these, everything is compiled and recorded
ENDLESS_EPOCH = 10**6  # steps of an epoch on one batch
CACHES = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
# A run that never ends, validates or saves.
ENDLESS = {"trainer.max_epochs": 10**6, "trainer.limit_val_batches": 0}
ENDLESS |= {"checkpoints.seconds": 10**6, "tracking.wandb": False}
FIRST_STEPS = 20  # of the first trial on several devices, before the speed is known
STABLE_LR_FACTOR = 0.03  # of the recipe's learning rate: the loss falls from the first step on


PARTS_BY_HOOK = {"on_before_backward": "forward", "on_after_backward": "backward"}
PARTS_BY_HOOK |= {"on_before_optimizer_step": "all-reduce"}


class BenchWorker(ClockCallback):
    """In the training process: wait for an order at the start of an epoch, run the trial in time.

    On several devices, rank 0 gets the orders and passes them on, with a number of steps for all.

    Args:
        address: of the socket on which the measuring process listens.
        one_batch: always train on the loader's first batch, kept on the device.
        slower: sleep for this share of the time, to test that it is detected.
        longest: with one_batch, train on a batch of the longest rows instead.
    """

    def __init__(
        self, address: str, one_batch: bool = False, slower: float = 0.0, longest: bool = False
    ) -> None:
        super().__init__(os.devnull)
        self.address, self.one_batch, self.slower = address, one_batch, slower
        self.longest = longest
        self.orders, self.most_steps, self.rate, self.devices = 0, 0, 0.0, 1
        self.until = self.begun = self.woken = self.first_seconds = 0.0  # seconds
        self.steps = 0  # of this trial
        self.parts: list[tuple[str, Any]] | None = None  # of its steps, if requested
        for hook, part in PARTS_BY_HOOK.items():
            setattr(self, hook, lambda *_, part=part: self._stamp(part))  # a step graph has none

    def setup(self, trainer, pl_module, stage) -> None:
        lengths = as_rows(trainer.datamodule.splits.train).lengths
        self.length = int(lengths.max()) if self.longest and lengths is not None else 0
        load = trainer.datamodule.train_dataloader
        trainer.datamodule.train_dataloader = lambda: _UntilTime(load(), self)

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        self._keep_rate_low(trainer)
        self.devices = trainer.world_size
        if not ranks.is_rank_zero():
            return
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        self.pipe = Connection(connection.detach())
        data, device = trainer.datamodule, trainer.strategy.root_device
        facts = data.facts()
        on_gpu = device.type == "cuda"
        by_hand = not (pl_module.automatic_optimization or pl_module.step_graph)
        gpu = torch.cuda.get_device_properties(device) if on_gpu else None
        self.pipe.send(
            {
                "rows": facts.rows["train"],
                "unit": facts.unit,
                "gpu_decoder": data.gpu_decoder,
                "batch_size": data.batch_size,
                "resident": data.decisions.loader.value != "streaming",
                "compile": pl_module.compile_decision.value or None,
                "manual_optimization": by_hand,
                "precision": str(trainer.precision),
                "gpu": gpu and gpu.name,
                "uuid": gpu and str(gpu.uuid),
            }
        )

    def _keep_rate_low(self, trainer) -> None:
        """Train as the recipe does, but at a low, constant learning rate."""
        for schedule in trainer.lr_scheduler_configs:
            optimizer = schedule.scheduler.optimizer
            schedule.scheduler = LambdaLR(optimizer, lambda step: STABLE_LR_FACTOR)
        if not trainer.lr_scheduler_configs:
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= STABLE_LR_FACTOR

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if self.is_over(self.steps):
            if self.begun:
                self._answer()
            self._wait(trainer)

    def is_over(self, steps: int) -> bool:
        """Return whether the trial is over after so many steps: at the same one on all ranks."""
        if self.devices > 1:
            return steps >= self.most_steps
        return time.perf_counter() >= self.until

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._stamp("data" if batch_idx else "between epochs")
        self.woken = self.woken if batch_idx else now(self.clock.device)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._stamp("optimizer")
        if self.slower and (batch_idx % 8 == 7 or batch_idx + 1 == trainer.num_training_batches):
            time.sleep(self.slower * (now(self.clock.device) - self.woken))
            self.woken = time.perf_counter()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.steps += 1
        if self.steps == WARMUP_STEPS:
            self.first_seconds = now(self.clock.device) - self.begun

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self._end_epoch(trainer)

    def _wait(self, trainer) -> None:
        if self.clock.device.type == "cuda":
            torch.cuda.empty_cache()
        while (order := self._next_order()) is not None and order.get("loader_only"):
            self.pipe.send(self._loader_rate(trainer, order["seconds"]))
        if order is None:
            os._exit(0)  # nothing of this run is kept
        trainer.train_dataloader.drop_prefetched()
        self.clock, self.losses = type(self.clock)(self.clock.device), [[]]
        self.parts = [] if order["parts"] else None
        self.steps, self.first_seconds = 0, 0.0
        self.begun = time.perf_counter()
        self.until, self.most_steps = self.begun + order["seconds"], order["steps"]
        self.batch_rows = trainer.datamodule.batch_size * self.devices

    def _next_order(self) -> dict[str, Any] | None:
        """Return the next order, or None at the end."""
        self.orders += 1
        return ranks.of_rank_zero(f"order/{self.orders}", self._received)

    def _received(self) -> dict[str, Any] | None:
        try:
            order = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if order is not None:
            steps = round(self.rate * order["seconds"] / self.batch_rows) if self.rate else 0
            order["steps"] = max(steps, WARMUP_STEPS + 2) if self.rate else FIRST_STEPS
        return order

    def _answer(self) -> None:
        self.rate = self.clock.inside or 0.0
        if not ranks.is_rank_zero():
            return
        on_gpu = self.clock.device.type == "cuda"
        losses = [loss for epoch in self.losses for loss in epoch]
        self.pipe.send(
            {
                "rate": self.clock.inside,
                "loss": float(torch.stack(losses).mean()) if losses else None,
                "first_loss": float(losses[0]) if losses else None,
                "first_seconds": self.first_seconds,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
                "parts": self.parts and self._milliseconds(self.parts),
            }
        )

    def _loader_rate(self, trainer, seconds: float) -> dict[str, Any]:
        """Return the rows/s that the loader copies to the device without training.

        It measures whole rounds of the workers, after the batches that they prefetched.
        """
        loader, rows, begun = trainer.train_dataloader.loader, 0, 0.0
        next(iter(loader))  # starts the workers, which stay from epoch to epoch
        for count, batch in enumerate(loader.running, 1):
            batch = trainer.strategy.batch_to_device(batch)
            if count <= loader.config.slots:
                begun = now(self.clock.device)
                continue
            rows += len(batch.row)
            a_round = (count - loader.config.slots) % max(loader.config.workers, 1) == 0
            if a_round and time.perf_counter() >= begun + seconds:
                break
        spent = now(self.clock.device) - begun
        loader.end()  # its workers would disturb the next measurement
        return {"rate": rows / spent}

    def _stamp(self, part: str) -> None:
        """Record the end of a part of a step; on a GPU as an event in the stream."""
        if self.parts is None or (part == "all-reduce" and self.devices == 1):
            return
        if self.clock.device.type == "cuda":
            done = torch.cuda.Event(enable_timing=True)
            done.record()
            self.parts.append((part, done))
        else:
            self.parts.append((part, time.perf_counter()))

    def _milliseconds(self, stamps: list) -> dict[str, float]:
        """Return the mean ms of each part over the trial's steps, without the first two."""
        now(self.clock.device)
        steps = [i for i, (part, _) in enumerate(stamps) if part == "optimizer"]
        spent: dict[str, Counter[int]] = {}
        step = 0
        for (_, before), (part, after) in pairwise(stamps[steps[1] :]):
            seconds = isinstance(after, float)
            passed = 1e3 * (after - before) if seconds else before.elapsed_time(after)
            spent.setdefault(part, Counter())[step] += passed  # a step may have several
            step += part == "optimizer"
        spent.pop("between epochs", None)
        return {part: statistics.mean(some.values()) for part, some in spent.items()}


class _UntilTime:
    """A loader that ends when the trial does."""

    def __init__(self, loader: Any, worker: BenchWorker) -> None:
        self.loader, self.worker = loader, worker
        self.length = ENDLESS_EPOCH if worker.one_batch else len(loader)
        self.batch: Any = None

    def __len__(self) -> int:
        return self.length

    def drop_prefetched(self) -> None:
        """Drop the batches that were prefetched during the trials of other processes."""
        if hasattr(self.loader, "running"):
            self.loader.running = None

    def __iter__(self) -> Iterator[Any]:
        if self.worker.one_batch and self.batch is None:
            first = _with_length(self.loader, self.worker.length)
            device = self.worker.clock.device
            self.batch = first._make(
                None if part is None else part.to(device).clone() for part in first
            )
            if hasattr(self.loader, "end"):
                self.loader.end()  # its workers
            self.loader = None
        batches = self.loader if self.batch is None else repeat(self.batch, self.length)
        before = self.worker.steps
        for count, batch in enumerate(batches, 1):
            yield batch
            if count >= WARMUP_STEPS + 1 and self.worker.is_over(before + count):
                return


def _with_length(loader: Any, length: int) -> Any:
    """Return the first batch whose rows have this length, or the last if none has; 0: any."""
    if not length:
        return next(iter(loader))
    for batch in loader:
        if any(part is not None and part.ndim > 1 and part.shape[1] >= length for part in batch):
            break
    return batch


def of_batch(size: int) -> list[str]:
    """Return the flags for steps of a single batch of `size` rows."""
    return [f"--data.batch_size={size}", "--data.global_batch_size=null"]


class Process:
    """A process that trains a recipe with these flags; after `ready()`, `about` describes it.

    It trains on `devices` devices, with a process for each. With `cold`, the compiler's caches are
    empty. Use it in a `with` statement and call `ready()` first; several can start together.
    """

    def __init__(
        self,
        package: str,
        config: Path,
        flags: Sequence[str],
        one_batch: bool = False,
        slower: float = 0.0,
        cold: bool = False,
        devices: int = 1,
        longest: bool = False,
    ) -> None:
        self.folder, self.devices = Path(tempfile.mkdtemp(prefix="trials-")), devices
        self.listener = socket.socket(socket.AF_UNIX)
        self.pipe: Connection | None = None  # to rank 0
        self.listener.bind(address := str(self.folder / "socket"))
        self.listener.listen(1)
        self.listener.settimeout(0.1)
        callback = {"address": address, "one_batch": one_batch, "slower": slower}
        callback["longest"] = longest
        last = [f"--trainer.callbacks+={BenchWorker.__module__}.BenchWorker"]
        last += [f"--trainer.callbacks.{name}={value}" for name, value in callback.items()]
        endless = ENDLESS | {"trainer.devices": devices}
        last += [f"--{name}={value}" for name, value in endless.items()]
        last += ["--allow-nan"]  # a trial says so itself
        last += ["--stall-timeout=1000000"] if devices > 1 else []  # it waits between trials
        command = ["fit", "--config", str(config), *flags, *last]
        environment = ranks.alone(os.environ) | {RUN_FOLDER_VARIABLE: str(self.folder / "run")}
        environment |= {UNLISTED_VARIABLE: "1"}
        if cold:
            environment |= dict.fromkeys(CACHES, str(self.folder / "compiled"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", package, *command],
            env=environment,
            stdout=(self.folder / "log").open("w"),
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.pipe is not None:
            self.pipe.close()  # ends all ranks that wait for an order
        self.listener.close()
        if self.devices > 1:  # the launcher then ends its processes
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ready(self) -> "Process":
        """Wait until it is ready to train. Raises UserError with its error if it ended instead."""
        self.about = self._ask(None, [])
        record = read_record(self.folder / "run" / "run.json")
        config = applied(record)
        self.about["settings"] = {part: config[part] for part in ("data", "model")}
        self.about["settings"]["trainer"] = {"precision": self.about["precision"]}
        return self

    def trial(self, seconds: float, parts: bool = False) -> dict[str, Any]:
        """Train for some seconds; return rate (rows/s), loss (mean), peak_gib, busy (percent).

        With `parts`, also return the ms of a step's parts: data, forward, backward, optimizer.
        Raises UserError if the process ended.
        """
        busy: list[int] = []
        found = self._ask({"seconds": seconds, "parts": parts}, busy)
        if found["rate"] is None:
            raise UserError(
                "An epoch has only one step, too few to measure. Lower --data.batch_size."
            )
        return found | {"busy": sum(busy) / len(busy) if busy else None}

    def loader_rate(self, seconds: float) -> float:
        """Return the loader's rows/s without training. Raises UserError if the process ended."""
        return self._ask({"seconds": seconds, "loader_only": True}, [])["rate"]

    def _ask(self, order: dict[str, Any] | None, busy: list[int]) -> dict[str, Any]:
        """Send an order and wait for the answer; meanwhile sample the GPU's load into `busy`."""
        try:
            while self.pipe is None:
                with suppress(TimeoutError):
                    self.pipe = Connection(self.listener.accept()[0].detach())
                if self.pipe is None and self.process.poll() is not None:
                    raise EOFError
            if order:
                self.pipe.send(order)
            while not self.pipe.poll(0.1):
                if self.process.poll() is not None and not self.pipe.poll():
                    raise EOFError
                uuid = getattr(self, "about", {}).get("uuid")
                state = gpu_state(uuid) if uuid else None
                busy += [state.busy] if state else []
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.wait()
            raise UserError(self._last_error()) from None

    def _last_error(self) -> str:
        lines = (self.folder / "log").read_text().strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
        if not errors:
            return "the process ended without a message"
        return errors[-1].removeprefix("error: ")
