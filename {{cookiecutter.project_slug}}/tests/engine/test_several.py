"""Training on several devices: the same learning as on one, and an end for all if one fails."""

import copy
import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from killed import Job, Moment, by_two_ranks, log_of, outcome, start, steps_done, wait
from torch import nn
from warm import SERVER

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.fast.data_parallel import (
    DataParallel,
)
from {{ cookiecutter.__package_name }}.engine.fast.running_statistics import (
    RunningStatistics,
)

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
gpu = (pytest.mark.gpu, on_a_gpu)
DIGITS = ("--config", "configs/digits.yaml", "--trainer.accelerator", "cpu")
STARTS = int(os.environ.get("STARTS", "1"))  # of all ranks; every fifth is cold


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trained(folder: Path, processes: int, accumulate: int, *flags: str) -> Path:
    """Train in so many processes, with so many micro-batches in each."""
    split = ("--trainer.devices", str(processes))
    split += ("--trainer.accumulate_grad_batches", str(accumulate))
    job = Job(["fit", *DIGITS, *split, *flags], folder, processes)
    assert wait(start(job)) == 0, log_of(folder)
    return folder


@pytest.mark.parametrize(
    ("precision", "steps", "weights", "losses"),
    [("64-true", 20, 1e-9, 1e-9), ("32-true", 5, 1e-4, 1e-4)],
)
def test_micro_batches_on_two_devices_learn_as_those_of_one(
    precision, steps, weights, losses, tmp_path
):
    """With batch normalization, clipping and augmentation; what is logged too."""
    flags = ("--data.batch_size", "4", "--trainer.max_steps", str(steps))
    flags += ("--trainer.precision", precision, "--trainer.log_every_n_steps", "1")
    flags += ("--trainer.gradient_clip_val", "0.5", "--data.mixup", "0.2")
    one = trained(tmp_path / "one", 1, 8, *flags)
    two = trained(tmp_path / "two", 2, 4, *flags)
    there = weights_of(two)
    for name, value in weights_of(one).items():
        torch.testing.assert_close(there[name], value, rtol=weights, atol=weights)
    assert f"step {steps}/{steps}" in log_of(one) and f"step {steps}/{steps}" in log_of(two)
    assert "32 images a step: 2 devices x 4, 4 times" in log_of(two)
    rows = [rows_of(folder) for folder in (one, two)]
    assert len(rows[0]) >= steps
    for before, after in zip(*rows, strict=True):
        assert before.keys() == after.keys()
        for name in before:
            assert float(after[name] or 0) == pytest.approx(float(before[name] or 0), abs=losses)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        *(
            pytest.param(("--trainer.accelerator=cuda", f"--model.compile={mode}"), marks=gpu)
            for mode in ("false", "reduce-overhead", "step-graph")
        ),
    ],
)
def test_one_device_through_the_same_path_gives_the_same_bits(flags, tmp_path):
    found = []
    for strategy in ("auto", "data-parallel"):
        folder, length = tmp_path / strategy, ("--trainer.max_epochs", "2")
        trained(folder, 1, 1, *length, "--trainer.strategy", strategy, *flags)
        found.append(outcome(folder))
    assert found[0] == found[1]


SHARED = """
import os, time, numpy as np, torch
from pathlib import Path
from {package}.data import synthetic
from {package}.engine.data.shared import once_per_host
from {package}.engine.images.finding.file_paths import Paths
from {package}.engine.images.splits import Files

rank = int(os.environ["RANK"])
loads = []


def load(value):
    loads.append(value)
    return value


def places(tensor):  # the file and the place in it, of the page that holds a tensor
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return line.split()[3:5]


images = once_per_host(lambda: load(synthetic(image_size=16, train=64, val=32)))
expected = synthetic(image_size=16, train=64, val=32)
assert len(loads) == (rank == 0)
assert torch.equal(images.train.images, expected.train.images)
assert images.train.images.stride() == expected.train.images.stride()
assert images.fingerprint == expected.fingerprint and places(images.train.images)[1] != "0"
paths = Paths.of("/images", ["a.jpg", "longer.jpg"])
files = once_per_host(lambda: load(Files(paths, torch.arange(2), np.eye(2, 32, dtype=np.uint8))))
assert [str(files[i]) for i in (1, 0)] == ["/images/longer.jpg", "/images/a.jpg"]
assert files.sha256.tolist() == np.eye(2, 32).tolist()
assert len(loads) == 2 * (rank == 0)
each = once_per_host(lambda: load(lambda: rank))  # a function that can't be pickled
assert each() == rank and len(loads) == 1 + 2 * (rank == 0)
both = [None, None]
torch.distributed.init_process_group("gloo")
torch.distributed.all_gather_object(both, places(files.labels))
assert both[0] == both[1] and "(deleted)" in Path("/proc/self/maps").read_text()
os.write(1, b"once\\n")
once_per_host(lambda: time.sleep(0.5) or 1 / 0)
"""


def test_data_are_loaded_once_and_mapped_by_the_processes_of_a_host(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert by_two_ranks(tmp_path, SHARED, statuses=[1, 1]).count("once\n") == 2
    assert (tmp_path / "script.log").read_text().count("Traceback") == 1
    assert not list(tmp_path.glob("shared-data-*"))


VALIDATED = """
import os, sys, lightning as L
from {package}.classifier import ImageClassifier
from {package}.data import ImageData
from {package}.engine.fast.data_parallel import DataParallel

L.seed_everything(0, verbose=False)
task, devices = ImageClassifier(small_images=True, num_classes=10), int(sys.argv[1])
rows = ImageData("synthetic", dict(image_size=8, train=64, val=7), eval_batch_size=2)
strategy = DataParallel() if devices > 1 else "auto"
trainer = L.Trainer(
    accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_progress_bar=False
)
(found,) = trainer.validate(task, rows, verbose=False)
os.write(1, (repr(sorted(found.items())) + "\\n").encode())
"""


def test_validation_on_two_devices_counts_each_row_once(tmp_path):
    said = [by_two_ranks(tmp_path, VALIDATED, devices).splitlines() for devices in ("1", "2")]
    alone, by_two = ({line for line in lines if line[:2] == "[("} for lines in said)
    assert len(alone) == 1 and alone == by_two


AGREED = """
import os, threading, torch
from {package}.engine.run.consensus import NO_WISH, RankConsensus

rank, consensus, wish = int(os.environ["RANK"]), RankConsensus(), (15, True)
torch.distributed.init_process_group("gloo")
acted = []
for point in range(20_000):
    if (agreed := consensus.agree(wish if point == 300 and rank == 1 else NO_WISH)) != NO_WISH:
        acted.append((point, agreed))
    if acted and point > acted[0][0] + 100:
        break
    threading.Event().wait(0.001)
torch.distributed.barrier()
consensus.close()
both = [None, None]
torch.distributed.all_gather_object(both, acted)
assert both[0] == both[1] and len(acted) == 1 and acted[0][1] == wish, both
assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
os.write(1, b"agreed\\n")
"""


def test_ranks_act_at_the_same_point_and_leave_no_thread_behind(tmp_path):
    assert by_two_ranks(tmp_path, AGREED) == "agreed\n" * 2


NORMALIZED = """
import os, sys, torch
from torch import nn
from {package}.engine.fast.sync_batch_norm import SyncBatchNorm, SynchronizeBatchNorm

torch.manual_seed(0)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.distributed.init_process_group("gloo")
torch.set_default_device(sys.argv[1])
on_gpu = sys.argv[1] == "cuda"
compiler = dict(backend="inductor" if on_gpu else "aot_eager", fullgraph=True)
everything = torch.randn(10, 3, 4, 4, dtype=torch.float64) * 2 + 1
target = torch.randn_like(everything)
parts = (slice(0, 6), slice(6, 10))  # the ranks' batches have different sizes


def outcome(layer, function, batch, goal):
    batch = batch.clone().requires_grad_()
    ((function(batch) - goal) ** 2).sum().backward()
    weights = torch.cat([layer.weight.grad, layer.bias.grad])
    if isinstance(layer, SyncBatchNorm | nn.SyncBatchNorm):
        torch.distributed.all_reduce(weights)
    return batch.grad, weights, torch.cat([layer.running_mean, layer.running_var])


for momentum in (0.1, None):
    plain = nn.BatchNorm2d(3, momentum=momentum).double()
    copied = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum).double())
    layer = SynchronizeBatchNorm().apply(copied)[0]
    expected = outcome(plain, plain, everything, target)
    torchs = nn.SyncBatchNorm(3, momentum=momentum).double()  # raises on the CPU
    functions = [layer, torch.compile(layer, **compiler), *([torchs] if on_gpu else [])]
    for function in functions:
        owner = torchs if function is torchs else layer
        owner.load_state_dict(nn.BatchNorm2d(3).double().state_dict())
        owner.zero_grad()
        found = outcome(owner, function, everything[parts[rank]], target[parts[rank]])
        wanted = (expected[0][parts[rank]], *expected[1:])
        torch.testing.assert_close(found, wanted)
    layer.eval(), plain.eval()
    torch.testing.assert_close(layer(everything), plain(everything))
    assert str(layer) == str(SynchronizeBatchNorm().revert(layer)) == str(plain)
    assert type(layer) is nn.BatchNorm2d
os.write(1, b"the same\\n")
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_synchronized_batch_normalization_is_that_of_the_whole_batch(device, tmp_path):
    """On the CPU, and for two processes that share a GPU."""
    assert by_two_ranks(tmp_path, NORMALIZED, device).count("the same\n") == 2


GLOO = (
    f"--trainer.strategy={DataParallel.__module__}.DataParallel",
    "--trainer.strategy.process_group_backend=gloo",
)


def test_a_run_with_synchronized_batch_normalization_is_resumed_and_evaluated(tmp_path):
    """With a strategy that is named by its class."""
    folder, flags = tmp_path / "run", (*DIGITS, *GLOO, "--trainer.sync_batchnorm=true")
    last = [*flags, "--trainer.devices=2", "--trainer.max_epochs=1"]
    assert wait(start(Job(["fit", *last, "--until=3"], folder, 2))) == 0, log_of(folder)
    assert wait(start(Job(["fit", "--run", str(folder)], folder, 2))) == 0, log_of(folder)
    assert steps_done(folder) == 8
    assert wait(start(Job(["validate", "--run", str(folder)], folder))) == 0, log_of(folder)


@pytest.mark.parametrize("number", range(STARTS))
def test_all_ranks_start(number, tmp_path, monkeypatch):
    """On GPUs, if there are two. STARTS=100: 20 times in new processes, else in forks of one."""
    if number % 5 == 4:
        monkeypatch.delenv(SERVER)
    kind = "cuda" if torch.cuda.device_count() > 1 else "cpu"
    arguments = ["fit", *DIGITS[:2], "--trainer.accelerator", kind, "--trainer.devices", "2"]
    few = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
    folder = tmp_path / "run"
    assert wait(start(Job([*arguments, *few], folder, 2))) == 0, log_of(folder)
    assert steps_done(folder) == 1


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("normalized", ["false", "true"])
def test_processes_that_share_a_gpu_resume_and_repeat_to_the_bit(normalized, tmp_path):
    split = ("--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.max_epochs=2")
    split += (f"--trainer.sync_batchnorm={normalized}", "--trainer.log_every_n_steps=1")
    arguments = ["fit", "--config", "configs/digits.yaml", *GLOO, *split]
    found = []
    for name in ("one", "again", "killed"):
        folder = tmp_path / name
        if name == "killed":
            often = [*arguments, "--checkpoints.seconds=0"]
            job = Job(often, folder, 2, Moment("step", 11), nodes=True)
            assert wait(start(job)) == -signal.SIGKILL, log_of(folder)
            arguments = ["fit", "--run", str(folder)]
        assert wait(start(Job(arguments, folder, 2, nodes=True))) == 0, log_of(folder)
        found.append(outcome(folder))
    assert found[0] == found[1] == found[2]


class Partly(ImageClassifier):
    """Has two more weights. The second is used from the second epoch on."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(small_images=True, num_classes=10, **settings)
        self.network.never = nn.Parameter(torch.ones(3))
        self.network.late = nn.Parameter(torch.ones(()))

    def forward(self, batch: Any) -> Any:
        late = self._trainer is not None and self.trainer.current_epoch > 0
        return super().forward(batch) * (self.network.late if late else 1.0)


def fit(task: Any, data: ImageData | None = None, **options: Any) -> None:
    """Train on the digits as a notebook does, with two micro-batches a step."""
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "logger"), False)
    quiet |= {"accelerator": "cpu", "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"max_epochs": 1, "limit_train_batches": 4, "accumulate_grad_batches": 2}
    trainer = L.Trainer(**quiet | settings | options)
    trainer.fit(task, datamodule=data or ImageData("digits", batch_size=32))


def test_a_weight_that_no_loss_reaches_is_named_once_and_stays_as_it_is(capsys):
    task = Partly(optimizer="adamw", weight_decay=0.5)
    fit(task)
    assert task.network.never.tolist() == [1, 1, 1] and task.network.never.grad is None
    said = "warning: the loss does not depend on these weights: network.never, network.late."
    assert capsys.readouterr().out.count(said) == 1


def test_a_weight_that_gets_its_first_gradient_later_is_an_error_that_names_it():
    with pytest.raises(UserError, match=r"^network\.late got its first gradient now"):
        fit(Partly(), max_epochs=2)


def linear(kind: type = ImageClassifier) -> Any:
    """A task without batch normalization, which sees each micro-batch for itself."""
    L.seed_everything(0, verbose=False)
    task = kind(num_classes=10, small_images=True)
    task.network.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    return task.double()


class OwnStep(ImageClassifier):
    """Has a training step of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(self(batch), batch)


class Calls(ImageClassifier):
    """Has a training step that calls the engine's."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("kind", [ImageClassifier, OwnStep, Calls])
def test_micro_batches_give_the_gradient_of_the_whole_batch(kind):
    found = []
    for parts in (1, 4):
        task, data = linear(kind), ImageData("digits", batch_size=64 // parts)
        length = {"accumulate_grad_batches": parts, "limit_train_batches": 2 * parts}
        fit(task, data=data, precision="64-true", **length)
        found.append([weight.detach() for weight in task.parameters()])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


class Compares(L.Callback):
    """Compares a step's gradient with that of its only micro-batch."""

    steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = batch

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps += 1
        if self.steps == 2:
            weights = list(pl_module.parameters())
            loss = pl_module.loss(pl_module(self.batch), self.batch)
            for weight, alone in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                torch.testing.assert_close(weight.grad, alone)


def test_the_last_step_of_an_epoch_that_a_limit_cuts_off_is_a_mean_too():
    compares = Compares()
    fit(linear(), limit_train_batches=3, callbacks=[compares], precision="64-true")
    assert compares.steps == 2


def test_running_statistics_change_once_a_step_by_the_mean_over_its_micro_batches():
    torch.manual_seed(0)
    layers = nn.ModuleList(
        [nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=0.3)]
    ).double()
    layers[2].eval()  # frozen
    layers[2].running_mean.uniform_()
    statistics, before = RunningStatistics(layers), copy.deepcopy(layers)
    for _ in range(2):
        batches, alone = torch.randn(3, 8, 3).double(), [copy.deepcopy(layers) for _ in range(3)]
        statistics.start()
        for number, (batch, copied) in enumerate(zip(batches, alone, strict=True)):
            for layer in (*layers, *copied):
                layer(batch)
            statistics.take(is_first=number == 0, is_last=number == 2)
        statistics.update(3)
        for place, layer in enumerate(layers):
            changed = [dict(copied[place].named_buffers()) for copied in alone]
            for name, value in layer.named_buffers():
                mean = torch.stack([each[name] for each in changed]).double().mean(0)
                torch.testing.assert_close(value.double(), mean)
    assert [int(layer.num_batches_tracked) for layer in layers] == [2, 2, 0]
    assert torch.equal(layers[2].running_mean, before[2].running_mean)


RANK_CONDITIONAL = """
import os, lightning as L, torch
from torch import nn
from {package}.classifier import ImageClassifier
from {package}.data import ImageData
from {package}.engine.fast.data_parallel import DataParallel

rank = int(os.environ["RANK"])


class Conditional(ImageClassifier):
    def __init__(self):
        super().__init__(small_images=True, num_classes=10, optimizer="adamw")
        self.network.sometimes = nn.Parameter(torch.ones(10))
        self.network.never = nn.Parameter(torch.ones(10))

    def forward(self, batch):
        outputs = super().forward(batch)
        return outputs * self.network.sometimes if rank == 1 else outputs


L.seed_everything(rank, verbose=False)  # the weights are rank 0's
task = Conditional()
L.Trainer(
    accelerator="cpu", devices=2, strategy=DataParallel(), max_steps=6, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
).fit(task, datamodule=ImageData("digits", batch_size=32))
state = torch.cat([value.double().flatten() for value in task.state_dict().values()])
both = [torch.empty_like(state) for _ in range(2)]
torch.distributed.all_gather(both, state)
assert torch.equal(*both)
assert (task.network.sometimes != 1).all() and (task.network.never == 1).all()
os.write(1, b"equal\\n")
"""


def test_a_weight_that_only_one_rank_uses_is_trained_alike_on_both(tmp_path):
    said = by_two_ranks(tmp_path, RANK_CONDITIONAL)
    assert said.count("equal\n") == 2
    assert said.count("the loss does not depend on these weights: network.never.") == 1
