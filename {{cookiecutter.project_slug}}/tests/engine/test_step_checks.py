"""A step that can't train, or trains only a part of the network, says so and names the place."""

import inspect
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from {{ cookiecutter.__package_name }}.engine import (
    Best,
    Data,
    Splits,
    Task,
    digest,
)
from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.fast.step_graph import StepGraph
from {{ cookiecutter.__package_name }}.engine.model.step_checks import warning_of
from {{ cookiecutter.__package_name }}.engine.task import loss_and_outputs

PARTS = ("body", "head", "extra", "more")


class Points(NamedTuple):
    x: Tensor
    row: Tensor


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 8), nn.Linear(8, 1)
        self.extra, self.more = nn.Linear(8, 3), nn.Linear(8, 3).requires_grad_(False)
        self.detaches: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.body(x)
        outputs = self.head(inner.detach() if self.detaches == "body" else inner)
        return outputs.detach() if self.detaches == "head" else outputs


class Line(Task):
    best = Best("val/loss", "min")
    inputs = ("x",)

    def __init__(self, result: Callable[[Tensor], Any] = Tensor.mean, compile: Any = None) -> None:
        super().__init__()
        self.network, self.result = Network(), result
        self.save_hyperparameters()
        self.flags = type(self.flags)(compile=compile)

    def forward(self, batch: Points) -> Tensor:
        return self.network(batch.x)

    def loss(self, outputs: Tensor, batch: Points) -> Any:
        return returned_by_a_part(self.result, (outputs - batch.x).square())

    def totals(self, outputs: Tensor, batch: Points) -> dict[str, tuple[Tensor, Tensor]]:
        return {"loss": ((outputs - batch.x).square().sum(), (batch.row >= 0).sum())}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), 0.01)


def returned_by_a_part(result: Callable[[Tensor], Any], errors: Tensor) -> Any:
    return result(errors)


class Steps(Line):
    def training_step(self, batch: Points, batch_idx: int) -> Tensor:
        return self.loss(self(batch), batch)


class Lines(Data):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__(batch_size, batch_size)
        x = torch.linspace(-1, 1, 32)[:, None]
        points = Points(x, torch.arange(32))
        self.splits = Splits(points, points)

    def facts(self) -> Facts:
        return Facts("line", self.splits.rows, digest(self.splits), shapes={"x": (1,)})


def fit(task: Task, *callbacks: L.Callback, **options: Any) -> Task:
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "logger"), False)
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    settings = {"accelerator": "cpu", "max_epochs": 2} | options
    L.Trainer(**quiet, **settings, callbacks=list(callbacks)).fit(task, datamodule=Lines())
    return task


def named(capsys: pytest.CaptureFixture[str]) -> list[set[str]]:
    """Return the parts of the network whose weights each warning names."""
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if "the loss does not depend on these weights:" in line]
    return [{part for part in PARTS if f"network.{part}.weight" in line} for line in warnings]


needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs a C compiler and Python's headers"
)
on_a_gpu = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)


@pytest.mark.parametrize(
    ("compile", "options"),
    [
        (None, {}),
        (None, {"accumulate_grad_batches": 2}),
        pytest.param("default", {}, marks=needs_a_compiler),
        pytest.param("step-graph", {"accelerator": "cuda"}, marks=on_a_gpu),
        pytest.param("eager-graph", {"accelerator": "cuda"}, marks=on_a_gpu),
    ],
    ids=["plain", "two parts", "compiled", "step graph", "eager graph"],
)
@pytest.mark.parametrize(("detaches", "parts"), [(None, {"extra"}), ("body", {"body", "extra"})])
def test_weights_that_the_loss_does_not_reach_are_named_once(
    detaches, parts, compile, options, capsys
):
    task = Line(compile=compile)
    task.network.detaches = detaches
    graphs = [StepGraph(loss_and_outputs)] if "graph" in str(compile) else []
    fit(task, *graphs, **options)
    assert named(capsys) == [parts]


def test_a_network_that_learns_as_a_whole_is_told_nothing(capsys):
    task = Line()
    task.network.extra.requires_grad_(False)
    fit(task)
    assert named(capsys) == []


def test_weights_that_are_unfrozen_are_looked_at_too(capsys):
    class Unfreezes(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            pl_module.network.more.requires_grad_(trainer.current_epoch > 0)

    fit(Line(), Unfreezes())
    assert named(capsys) == [{"extra"}, {"extra", "more"}]


def test_a_step_that_is_left_out_says_nothing_of_the_weights(capsys):
    class LeavesOut(Line):
        def training_step(self, batch: Points, batch_idx: int) -> Any:
            return None if batch_idx == 0 else super().training_step(batch, batch_idx)

    fit(LeavesOut())
    assert named(capsys) == [{"extra"}]


def test_of_many_weights_some_are_named():
    assert warning_of([f"w{i}" for i in range(12)]).endswith(
        ": " + ", ".join(f"w{i}" for i in range(10)) + " and 2 more."
    )


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (lambda errors: errors.mean().item(), "a float"),
        (lambda errors: errors.mean().detach(), "a tensor without gradient"),
        (lambda errors: errors.flatten(), r"a tensor of shape \(8,\)"),
        (lambda errors: None, "None"),
        (lambda errors: {"a": errors.mean(), "b": 0.5}, "a dict with a float as 'b'"),
        (lambda errors: {}, "an empty dict"),
        (lambda errors: {"a": errors}, r"a dict whose sum is a tensor of shape \(8, 1\)"),
        (lambda errors: [errors.mean()], "a list"),
    ],
    ids=["number", "detached", "rows", "nothing", "number in a dict", "empty", "dict", "list"],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_can_not_be_trained_on_is_named_with_its_place(result, found, parts):
    line = inspect.getsourcelines(result)[1]
    place = f"test_step_checks.py, line {line}: <lambda>"
    wanted = "expected a scalar tensor computed from the network's outputs"
    with pytest.raises(UserError, match=f"line .* returned {found}; {wanted}") as caught:
        fit(Line(result), accumulate_grad_batches=parts)
    assert f"{place}() returned" in str(caught.value)


def test_a_dict_may_hold_a_term_without_gradient():
    fit(Line(lambda errors: {"a": errors.mean(), "b": errors.mean().detach()}))


def test_a_network_that_detaches_its_outputs_is_named():
    task = Line()
    task.network.detaches = "head"
    with pytest.raises(
        UserError, match=r"line \d+: forward\(\) returned a tensor without"
    ) as caught:
        fit(task)
    assert f"line {inspect.getsourcelines(Network.forward)[1] + 3}" in str(caught.value)


def test_a_network_without_a_weight_that_learns_is_no_fault_of_the_loss():
    task = Line()
    task.network.requires_grad_(False)
    with pytest.raises(UserError, match="requires_grad is False for all"):
        fit(task)


def test_a_detached_loss_of_a_training_step_of_ones_own_is_named():
    line = inspect.getsourcelines(Steps.training_step)[1]
    with pytest.raises(UserError, match=f"line {line}: training_step.* a tensor without gradient"):
        fit(Steps(lambda errors: errors.mean().detach()))
