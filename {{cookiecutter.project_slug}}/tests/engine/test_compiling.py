"""torch.compile: nothing is compiled twice, and a network that can't be compiled whole is named."""

import copy
import inspect
import json
import logging
import os
import random
from collections import Counter
from pathlib import Path
from types import MethodType
from typing import Any

import lightning as L
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from {{ cookiecutter.__package_name }} import networks
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.engine import decisions, hardware, task
from {{ cookiecutter.__package_name }}.engine.data import resident
from {{ cookiecutter.__package_name }}.engine.decisions import Decision
from {{ cookiecutter.__package_name }}.engine.fast import (
    installed_networks,
    patches,
    step_graph,
)
from {{ cookiecutter.__package_name }}.engine.fast.compile_messages import (
    keep_cache,
)
from {{ cookiecutter.__package_name }}.engine.fast.installed_networks import (
    InstalledNetworks,
)
from {{ cookiecutter.__package_name }}.engine.fast.step_versions import (
    StepVersions,
)
from {{ cookiecutter.__package_name }}.engine.model.freeze import unfreeze
from {{ cookiecutter.__package_name }}.engine.monitor.bar import Lines
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics
from {{ cookiecutter.__package_name }}.engine.run.record import RunRecord

pytestmark = pytest.mark.skipif(
    not hardware._has_compiler(), reason="needs a C compiler and Python's headers"
)

SMALL = ("fit", "--config", "configs/digits.yaml", "--model.network", "mine")
COMPILED = (*SMALL, "--model.compile", "true", "--trainer.max_epochs", "2")


class Mine(nn.Module):
    """Two layers, and what a subclass does between them."""

    def __init__(self, num_classes: int, small_images: bool) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)
        self.calls, self.seen, self.limit = 0, [], 0.0

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.between(self.features(images).relu().mean((2, 3))))

    def between(self, features: Tensor) -> Tensor:
        return features


class Plain(Mine):
    pass


class Prints(Mine):
    def between(self, features: Tensor) -> Tensor:
        print("features", features.shape)  # here
        return features


class Reads(Mine):
    def between(self, features: Tensor) -> Tensor:
        self.limit = features.mean().item()  # here
        return features


class Waits(Mine):
    def between(self, features: Tensor) -> Tensor:
        torch.cuda.synchronize()  # which its own check does not notice
        return features


class Lags(Mine):
    def between(self, features: Tensor) -> Tensor:
        torch.cuda._sleep(20_000_000)  # cycles: the host is steps ahead
        return features


class Branches(Mine):
    def between(self, features: Tensor) -> Tensor:
        if features.mean() > 0:  # here
            return features * 2
        return features


class Picks(Mine):
    def between(self, features: Tensor) -> Tensor:
        return features * features[features > 0].mean()  # here


class Counts(Mine):
    def between(self, features: Tensor) -> Tensor:
        self.calls += 1  # here
        return features


class Appends(Mine):
    def between(self, features: Tensor) -> Tensor:
        self.seen.append(features.detach())  # here
        return features


@pytest.fixture
def mine(monkeypatch, tmp_path_factory):
    """Let --model.network mine be a class of this file."""
    torch._dynamo.reset()

    def choose(kind: type[nn.Module]) -> None:
        monkeypatch.setitem(networks.NETWORKS, "mine", kind)

    yield choose
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


def line_of(kind: type) -> str:
    """Return where the comment `here` stands in a class, as it is reported."""
    lines, first = inspect.getsourcelines(kind)
    place = next(first + i for i, line in enumerate(lines) if line.endswith("# here\n"))
    return f"{Path(__file__).relative_to(Path.cwd())}:{place} "


@pytest.mark.speed
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Prints, "builtin operator `print`"),
        (Reads, "tracing `Tensor.item()`"),
        (Branches, "data-dependent branching (e.g. `if my_tensor.sum() > 0:`)"),
        (Picks, "depends on input Tensor data"),
        (Counts, ".calls == 1"),
        (Appends, ".seen) == 1"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_keeps_a_network_from_being_compiled_whole_is_said_once(kind, why, mine, call, capfd):
    mine(kind)
    torch.compiler.set_stance(force_backend="eager")  # traced as always, and not made faster
    assert call(*COMPILED, "--trainer.limit_train_batches", "4") == 0
    out, err = capfd.readouterr()
    assert out.count("suggestion") == 1
    assert line_of(kind) in out and why in out
    torchs_log = (out + err).replace("Graph break (the", "")
    assert "raph break" not in torchs_log and "Recompiling" not in torchs_log


@pytest.mark.speed
@pytest.mark.parametrize("network", ["small_cnn", "resnet18"])
def test_nothing_is_said_of_networks_that_compile_whole(network, mine, call, capfd):
    torch.compiler.set_stance(force_backend="eager")
    flags = (*COMPILED, "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2")
    assert call(*flags, "--model.network", network) == 0
    assert "suggestion" not in capfd.readouterr().out


@pytest.mark.speed
def test_nothing_is_compiled_after_the_first_epoch(mine, call, monkeypatch):
    mine(Plain)

    def compile_no_more(_) -> None:
        torch.compiler.set_stance("fail_on_recompile")

    monkeypatch.setattr(ImageClassifier, "on_train_epoch_end", compile_no_more, raising=False)
    assert call(*COMPILED) == 0
    mine(Counts)
    torch.compiler.set_stance("default")
    with pytest.raises(RuntimeError, match="recompile"):
        call(*COMPILED, "--trainer.limit_train_batches", "2")


@pytest.mark.speed
def test_a_second_start_takes_what_the_first_compiled_from_the_cache(mine, call):
    mine(Plain)
    flags = (*COMPILED, "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2")
    assert call(*flags) == 0
    torch._dynamo.reset()
    counters.clear()
    assert call(*flags) == 0
    found = {**counters["aot_autograd"], **counters["inductor"]}
    assert found["autograd_cache_hit"] > 0 and found["fxgraph_cache_hit"] > 0
    assert "autograd_cache_miss" not in found and "fxgraph_cache_miss" not in found
    assert list(Path(os.environ["XDG_CACHE_HOME"]).glob("torchinductor/*/fxgraph"))


def test_the_cache_is_kept_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    keep_cache("CPU (R) 9000 @ 2 GHz")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # as an import of torch does
    keep_cache("CPU (R) 9000 @ 2 GHz")
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.is_dir() and folder.parent == tmp_path / "cache" / "torchinductor"


def test_without_a_home_to_write_to_torch_chooses_the_cache(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_cache("CPU")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


class Watches(L.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        """As one that logs the norm of the gradients."""


def by_epochs(model: ImageClassifier) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


def by_counting(model: ImageClassifier) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(model.parameters(), 0.1)


COUNTS = "it is for optimizers of torch that count their steps on the GPU"
GRAPH = ("fit", "--config", "configs/digits.yaml", "--model.compile", "step-graph")


@pytest.mark.parametrize(
    ("flags", "own", "reason"),
    [
        ((), {"configure_optimizers": by_epochs}, "it steps one schedule, at each step"),
        ((), {"configure_optimizers": by_counting}, COUNTS),
        (("--trainer.detect_anomaly", "true"), {}, "detect_anomaly checks each step"),
        ((), {"optimizer_step": Mine.between}, "it never calls Mine.between"),
        (
            ("--trainer.callbacks+", f"{__name__}.Watches"),
            {"on_after_backward": lambda self: None},
            "it never calls <lambda>, Watches.on_before_optimizer_step",
        ),
    ],
)
def test_a_step_graph_refuses_what_it_would_leave_out(
    flags, own, reason, call, capsys, monkeypatch
):
    for name, written in own.items():
        monkeypatch.setattr(ImageClassifier, name, written)
    assert call(*GRAPH, *flags) == 2
    assert f"step-graph, but {reason}: leave it unset." in capsys.readouterr().err


def test_a_step_that_cannot_be_one_graph_uses_several_unless_one_was_asked_for(
    call, monkeypatch, tmp_path, capsys
):
    """On a CPU, which has no CUDA graphs, with the decision that a GPU gets."""
    modes = []
    monkeypatch.setattr(
        task, "compile_task", lambda network, step, mode: modes.append(mode) or step
    )
    monkeypatch.setattr(decisions, "compile_mode", lambda *_: Decision("step-graph", "a GPU's"))
    digits = ("fit", "--config", "configs/digits.yaml", "--trainer.max_epochs=1")
    assert call(*digits, folder=tmp_path) == 0
    reason = "no step graph, because it needs an NVIDIA GPU"
    assert modes == ["reduce-overhead"] and reason in capsys.readouterr().out
    start = RunRecord(tmp_path).newest_start()
    assert start["decisions"]["model.compile"] == {"value": "reduce-overhead", "why": reason}


def test_steps_are_counted_for_both_ways_to_step():
    """A run may go on by a step graph, or without one."""
    one = {"total": {"ready": 7, "completed": 7}, "current": {"ready": 3, "completed": 3}}
    none = {"total": {"ready": 0, "completed": 0}, "current": {"ready": 0, "completed": 0}}
    for by_hand, automatic in ((one, none), (none, one)):
        loop = {
            "epoch_loop.manual_optimization.optim_step_progress": dict(by_hand),
            "epoch_loop.automatic_optimization.optim_progress": dict(
                optimizer=dict(step=dict(automatic))
            ),
        }
        patches.equalize_step_counts({"loops": {"fit_loop": loop}})
        assert loop["epoch_loop.manual_optimization.optim_step_progress"] == one
        assert loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] == one
    patches.equalize_step_counts({})  # of weights alone


class Switching(nn.Module):
    """Its loss depends on a number that changes between steps, and on a layer's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.factor = nn.BatchNorm1d(3), 1.0


def switching_step(task: Switching, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    outputs = task.layer(batch)
    return outputs.sum() * task.factor, {"mean": outputs.mean()}, outputs


def test_a_step_has_a_version_for_each_set_of_values_that_its_code_reads():
    task, versions = Switching(), StepVersions(switching_step)
    small, large = torch.ones(2, 3), torch.ones(4, 3)
    assert [versions.of(task, batch) for batch in (small, small, large, small)] == [0, 0, 1, 0]
    task.factor = 2.0
    assert [versions.of(task, batch) for batch in (small, large)] == [2, 3]
    task.factor = 1.0
    assert versions.of(task.eval(), small) == 4
    assert versions.of(task.train(), small) == 0 and not versions.problem
    assert task.layer.num_batches_tracked == 0, "asking has computed the step"


def test_what_is_asked_leaves_torchs_limit_of_versions_to_the_step():
    compiled: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    step = torch.compile(switching_step, backend=backend, dynamic=False)
    task, versions = Switching(), StepVersions(switching_step)
    limit = torch._dynamo.config.recompile_limit
    for version in range(limit):
        task.factor = 1.5 + version
        step(task, torch.ones(2, 3))
        assert versions.of(task, torch.ones(2, 3)) == version and len(compiled) == version + 1
    task.factor = 0.5
    assert versions.of(task, torch.ones(2, 3)) is None and "limit" in versions.problem


def test_each_training_has_torchs_limit_of_versions_to_itself():
    torch.compiler.reset()
    for _ in range(torch._dynamo.config.recompile_limit + 1):
        assert StepVersions(switching_step).of(Switching(), torch.ones(2, 3)) == 0


def test_a_first_question_is_reported_as_no_recompilation():
    reported: list[logging.LogRecord] = []
    log, keep = logging.getLogger("torch._dynamo.guards.__recompiles"), reported.append
    torch.compiler.reset()
    torch._logging.set_logs(recompiles=True)
    log.addFilter(keep)
    try:
        task, versions = Switching(), StepVersions(switching_step)
        torch.compile(switching_step, backend="eager")(task, torch.ones(2, 3))
        assert versions.of(task, torch.ones(2, 3)) == 0 and not reported
        task.factor = 2.0
        assert versions.of(task, torch.ones(2, 3)) == 1 and reported
    finally:
        log.removeFilter(keep)
        torch._logging.set_logs()


def test_without_torch_compile_there_are_no_versions(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    task, versions = Switching(), StepVersions(switching_step)
    assert versions.of(task, torch.ones(2, 3)) is None and "turned off" in versions.problem
    assert task.layer.num_batches_tracked == 0, "asking has computed the step"


class Factor(nn.Linear):
    """A student's layer in an installed network."""

    momentum = 1.0

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.momentum


def networks_step(task: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    outputs = task.network(images)
    return outputs.sum(), {}, outputs


@pytest.mark.parametrize("own", [False, True])
def test_an_installed_network_is_known_by_its_settings(own):
    task, images = nn.Module(), torch.ones(2, 3, 32, 32)
    torch.compiler.reset()
    task.network = network = torchvision.models.resnet18()
    network.fc = Factor(512, 10) if own else network.fc
    versions, found = StepVersions(networks_step), []
    weights, untouched = network.state_dict(), copy.deepcopy(network.state_dict())

    def ask() -> None:
        found.append(versions.of(task, images))

    layer = network.fc if own else network.layer4[1].bn2
    layer.momentum = before = layer.momentum
    ask()
    for momentum in (0.2, before):
        layer.momentum = momentum
        ask()
    for training in (False, True):
        network.train(training)
        ask()
    weight = next(network.layer1.parameters())
    for trained in (False, True):
        weight.requires_grad_(trained)
        ask()
    assert found == [0, 1, 0, 2, 0, 3, 0] and not versions.problem
    followed = len(versions.installed.networks)
    network.layer1.register_forward_hook(lambda *_: None)
    ask()
    assert found[-1] == 4 and followed == (4 if own else 1) and "forward" not in vars(network)
    assert len(versions.installed.networks) == 3, "what a hook computes is followed"
    same = [torch.equal(untouched[name], weight) for name, weight in weights.items()]
    assert all(same), "asking has computed"


def own_forward(self: Any, images: Tensor) -> Tensor:
    """A student's function in an installed network."""
    return torchvision.models.ResNet._forward_impl(self, images) * FACTOR["is"]


FACTOR = {"is": 1.0}


@pytest.mark.parametrize("place", ["instance", "class"])
def test_an_installed_network_with_own_code_is_followed(place, monkeypatch):
    task, images = nn.Module(), torch.ones(2, 3, 32, 32)
    torch.compiler.reset()  # it keeps the versions of other tests
    task.network = network = torchvision.models.resnet18()
    if place == "instance":
        network._forward_impl = MethodType(own_forward, network)
    else:
        monkeypatch.setattr(torchvision.models.ResNet, "forward", own_forward)
    versions = StepVersions(networks_step)
    assert versions.of(task, images) == 0 and network not in versions.installed.networks
    monkeypatch.setitem(FACTOR, "is", 2.0)
    assert versions.of(task, images) == 1 and not versions.problem


class Keeps(torchvision.models.ResNet):
    """An installed network that changes its own attributes."""

    __module__ = "torchvision.models.resnet"
    seen: Any = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.shape
        return super().forward(images)


def test_a_network_that_changes_its_attributes_has_no_versions(monkeypatch):
    monkeypatch.setattr(installed_networks, "is_installed", lambda file: True)
    installed_networks._is_installed_file.cache_clear()
    task, images = nn.Module(), torch.ones(2, 3, 32, 32)
    torch.compiler.reset()
    task.network = Keeps(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    versions = StepVersions(networks_step)
    installed = InstalledNetworks(task)
    assert list(installed.networks) == [task.network]
    assert versions.of(task, images) is None and "attributes" in versions.problem
    assert not versions.installed.networks and task.network.seen is None
    installed_networks._is_installed_file.cache_clear()


def test_a_step_with_a_generator_of_its_own_has_no_versions():
    task = Switching()
    task.chance = random.Random(0)
    assert StepVersions(switching_step).of(task, torch.ones(2, 3)) is None


def waits(task: Switching, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    factor = task.layer(batch).sum().item()
    torch._dynamo.graph_break()
    return batch.sum() * factor, {}, batch


def counts(task: Switching, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    task.factor += 1
    return (task.layer(batch) * task.factor).sum(), {}, batch


def keeps(task: Switching, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    task.seen = task.layer(batch)
    return task.seen.sum(), {}, batch


def draws(task: Switching, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    return task.layer(batch).sum() * random.uniform(0.9, 1.1), {}, batch


@pytest.mark.parametrize("step", [waits, counts, keeps, draws])
def test_a_step_whose_versions_cannot_be_told_has_none(step):
    task, versions, drawn = Switching(), StepVersions(step), random.getstate()
    found = [versions.of(task, torch.ones(2, 3)) for _ in range(20)]
    assert found[-1] is None and versions.problem and "\n" not in versions.problem
    assert random.getstate() == drawn and task.factor == 1.0, "asking has computed"
    assert not hasattr(task, "seen")


@pytest.fixture
def no_waiting(monkeypatch):
    """Let whatever makes the host wait for the GPU within an epoch raise, from its 10th step on.

    What PyTorch doesn't notice stands in a profile: yields the CUDA calls of the second epoch.
    """
    profile, steps, called = torch.profiler.profile(), torch.profiler.record_function("steps"), []

    def start(model, batch, batch_idx) -> None:
        last = model.trainer.num_training_batches - 1
        if (model.current_epoch, batch_idx) == (1, 0):
            torch.compiler.set_stance("fail_on_recompile")
        if (model.current_epoch, batch_idx) == (1, 10):
            profile.start()
            steps.__enter__()
        torch.cuda.set_sync_debug_mode("error" if 10 <= batch_idx < last else "default")
        if (model.current_epoch, batch_idx) == (1, last):
            steps.__exit__(None, None, None)
            profile.stop()
            host = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CPU]
            (whole,) = (event.time_range for event in host if event.name == "steps")
            within = [e.name for e in host if whole.start <= e.time_range.start <= whole.end]
            called.extend(name for name in within if name.startswith("cu"))

    monkeypatch.setattr(ImageClassifier, "on_train_batch_start", start, raising=False)
    monkeypatch.setattr(Lines, "seconds", 0.0)  # so that each step shows its loss
    monkeypatch.setattr(resident, "AT_ONCE", 2**22)  # bytes: ten batches, so that some are gathered
    yield called
    torch.cuda.set_sync_debug_mode("default")
    torch.compiler.set_stance("default")


def waiting(called: list[str]) -> Counter[str]:
    return Counter(name for name in called if "Synchronize" in name or name == "cudaMemcpy")


ON_GPU = ("fit", "--config", "configs/synthetic.yaml", "--data.batch_size", "128")
ON_GPU = (*ON_GPU, "--data.options={image_size: 32, train: 8960, val: 512}")
ON_GPU = (*ON_GPU, "--trainer.max_epochs=2", "--trainer.max_steps=-1")
ON_GPU = (*ON_GPU, "--trainer.log_every_n_steps=5", "--checkpoints.seconds=600")


class Copies(Mine):
    def between(self, features: Tensor) -> Tensor:
        return features * torch.tensor([1.0], device=features.device)


class Draws(Mine):
    def between(self, features: Tensor) -> Tensor:
        return features * random.uniform(0.9, 1.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [Plain, Copies, Draws])
def test_steps_that_are_recorded_uncompiled_are_those_without_a_graph(
    kind, mine, call, monkeypatch, tmp_path, capsys
):
    """A step that copies to the GPU, or draws numbers on the CPU, can't be recorded, and is not."""
    mine(kind)
    found = []
    flags = ("--model.network=mine", "--model.small_images=false", "--model.compile=eager-graph")
    flags += ("--model.ema=0.9",)
    for seconds in (1e9, 0):
        monkeypatch.setattr(step_graph, "SECONDS_THAT_PAY", seconds)
        folder = tmp_path / str(seconds)
        assert call(*ON_GPU, *flags, folder=folder) == 0
        found.append(json.loads((folder / "digests.json").read_text()))
    assert found[0]["losses"] == found[1]["losses"] and found[0]["weights"] == found[1]["weights"]
    assert ("no longer recorded as CUDA graphs" in capsys.readouterr().out) is (kind is not Plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "mode", ["false", "default", "reduce-overhead", "step-graph", "eager-graph"]
)
@pytest.mark.parametrize(
    "mixed", ["", "--data.mixup=0.2 --data.cutmix=1 --data.cutout=8 --model.ema=0.9"]
)
@pytest.mark.parametrize(
    "parts", ["", "--data.global_batch_size=512", "--trainer.strategy=data-parallel"]
)
def test_no_step_waits_for_the_gpu_even_if_it_logs_or_shows_its_loss(
    mode, mixed, parts, no_waiting, call
):
    flags = ("--model.network", "resnet18", f"--model.compile={mode}", *mixed.split())
    flags += tuple(parts.split())
    assert call(*ON_GPU, *flags) == 0
    assert len(no_waiting) > 50 and not waiting(no_waiting)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("strategy", "mode", "calls"),
    [
        ("auto", "step-graph", 0),
        ("auto", "reduce-overhead", 0),
        ("data-parallel", "step-graph", 0),  # the call is in the graph
        ("data-parallel", "reduce-overhead", 5),  # one for four micro-batches
    ],
)
def test_steps_between_two_log_steps_copy_nothing_from_the_gpu_and_sum_once(
    strategy, mode, calls, call, monkeypatch
):
    """Of 20 micro-batches, without a line of progress."""
    profile = torch.profiler.profile()

    def start(model, batch, batch_idx) -> None:
        if model.current_epoch == 1 and batch_idx == 5:
            profile.start()
        if model.current_epoch == 1 and batch_idx == 25:
            torch.cuda.synchronize()
            profile.stop()

    monkeypatch.setattr(ImageClassifier, "on_train_batch_start", start, raising=False)
    monkeypatch.setattr(Lines, "seconds", 1e9)
    flags = ["--trainer.log_every_n_steps=50", f"--trainer.strategy={strategy}"]
    flags += ["--data.global_batch_size=512"] if strategy == "data-parallel" else []
    assert call(*ON_GPU, "--model.network=resnet18", f"--model.compile={mode}", *flags) == 0
    names = Counter(event.name for event in profile.events())
    assert not [name for name in names if name.startswith("Memcpy DtoH")]
    shared = {name: count for name, count in names.items() if name.startswith("c10d::")}
    assert sum(shared.values()) == calls and set(shared) <= {"c10d::allreduce_"}
    assert mode != "step-graph" or names["cudaGraphLaunch"] == 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_that_waits_for_the_gpu_is_noticed(mine, no_waiting, call):
    mine(Reads)
    flags = ("--model.network=mine", "--model.small_images=false", "--model.compile=false")
    with pytest.raises(RuntimeError, match="synchroniz"):
        call(*ON_GPU, *flags)
    torch.cuda.set_sync_debug_mode("default")
    mine(Waits)
    assert call(*ON_GPU, *flags) == 0 and waiting(no_waiting)["cudaDeviceSynchronize"] >= 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_lags_logs_what_it_computed(mine, call, monkeypatch, tmp_path):
    mine(Lags)
    logged = []
    for name in ("ahead", "waits"):
        folder = tmp_path / name
        assert call(*SMALL, "--trainer.max_epochs=2", "--model.compile=false", folder=folder) == 0
        logged.append(read_metrics(folder / "metrics.csv"))
        monkeypatch.setenv(patches.SWITCH, "-log_without_waiting")
    assert logged[0] == logged[1] and len(logged[0]) == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune", "step-graph"])
def test_gradients_that_are_summed_up_are_the_same_compiled(mode, call, monkeypatch, tmp_path):
    for kernels in ("gemm", "conv"):  # to try Triton's takes minutes
        name = f"max_autotune_{kernels}_backends"
        monkeypatch.setattr(torch._inductor.config, name, "ATEN")
    summed = (*ON_GPU, "--data.global_batch_size=512", "--trainer.precision=32-true")
    summed = (*summed, "--model.network=small_cnn")
    summed = (*summed, "--model.learning_rate=0.003")  # a higher one makes chaos of last bits
    losses, skipped = [], counters["inductor"]["cudagraph_skips"]
    for compiled in (mode, "false"):
        flags = (f"--model.compile={compiled}", "--trainer.max_epochs=3")
        flags += ("--trainer.deterministic=false",) if mode == "max-autotune" else ()
        assert call(*summed, *flags, folder=tmp_path / compiled) == 0
        rows = read_metrics(tmp_path / compiled / "metrics.csv")
        losses.append([row["train/loss"] for row in rows if "train/loss" in row])
    assert len(losses[0]) == 10 and losses[0] == pytest.approx(losses[1], abs=0.03)
    assert counters["inductor"]["cudagraph_skips"] == skipped


def halved_at_first(task: Any, outputs: Any, batch: Any, loss: Any = ImageClassifier.loss) -> Any:
    return loss(task, outputs, batch) * (0.5 if task.trainer.current_epoch < 1 else 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("clip", ["", "--trainer.gradient_clip_val=0.1"])
def test_a_step_graph_follows_what_the_code_reads(clip, call, monkeypatch, tmp_path):
    """Its weights are those of the same step without a graph."""
    monkeypatch.setattr(ImageClassifier, "loss", halved_at_first)
    found = []
    for mode in ("default", "step-graph"):
        flags = (f"--model.compile={mode}", "--model.network=small_cnn", *clip.split())
        assert call(*ON_GPU, *flags, folder=tmp_path / mode) == 0
        found.append(json.loads((tmp_path / mode / "digests.json").read_text()))
    assert found[0]["losses"] == found[1]["losses"] and found[0]["weights"] == found[1]["weights"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["false", "default", "reduce-overhead", "step-graph"])
def test_what_is_unfrozen_in_mid_run_learns_however_it_is_compiled(
    mode, call, monkeypatch, tmp_path
):
    before = {}

    def start(model) -> None:
        if model.current_epoch == 1:
            before.update({name: w.detach().cpu().clone() for name, w in model.named_parameters()})
            unfreeze(model.network)

    monkeypatch.setattr(ImageClassifier, "on_train_epoch_start", start, raising=False)
    flags = ("--trainer.max_epochs=2", "--model.freeze_backbone=true", f"--model.compile={mode}")
    assert call("fit", "--config", "configs/digits.yaml", *flags, folder=tmp_path) == 0
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert len(before) == 20
    assert not [name for name, weight in before.items() if torch.equal(weight, saved[name].cpu())]
