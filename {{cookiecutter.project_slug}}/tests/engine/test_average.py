"""--model.ema: averages follow the formula, are validated, and change no training step."""

from contextlib import nullcontext
from operator import attrgetter
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    task_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.fast.patches import (
    step_counts,
)
from {{ cookiecutter.__package_name }}.engine.fast.step_graph import (
    StepGraph,
)
from {{ cookiecutter.__package_name }}.engine.model.average import (
    WeightAverage,
)
from {{ cookiecutter.__package_name }}.engine.task import (
    loss_and_outputs,
)

DECAY, BATCHES = 0.8, 40
KINDS = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
QUIET |= {"accelerator": "cpu", "enable_model_summary": False, "num_sanity_val_steps": 0}


class Seen(L.Callback):
    """Keeps the weights after each step, in each validation, and when training ends."""

    def __init__(self):
        self.steps, self.validated = [], []

    def on_train_start(self, trainer, pl_module):
        self.steps.append(weights_of(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == len(self.steps):
            self.steps.append(weights_of(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *_):
        self.validated.append((trainer.global_step, weights_of(pl_module)))


class AsGraph(StepGraph):
    """A step graph that computes a step again where a GPU replays it."""

    def on_train_start(self, trainer, pl_module):
        pl_module.automatic_optimization, pl_module.step_graph = False, self
        self.model, self.counts, self.steps = pl_module, step_counts(trainer), 0
        self.optimizer = pl_module.optimizers()

    def on_train_batch_start(self, *_):
        pass

    def reset(self):
        pass

    def _recorded(self, batch, begins):
        return SimpleNamespace(replay=self._train_step)


def weights_of(task):
    return [weight.detach().clone().float().numpy() for weight in task.parameters()]


def train(ema, callbacks=(), **options):
    L.seed_everything(3, verbose=False)
    task = task_with_flags(ImageClassifier)(num_classes=10, small_images=True, ema=ema)
    seen = Seen()
    lengths = {"max_epochs": 1, "limit_train_batches": BATCHES, "limit_val_batches": 1}
    options |= {"val_check_interval": 0.25, "callbacks": [seen, *callbacks]}
    trainer = L.Trainer(**QUIET, **lengths, **options)
    trainer.fit(task, datamodule=ImageData("digits", batch_size=16))
    return seen, task


def averages_of(steps):
    """Return the averages after each step, as a plain loop computes them."""
    averages = [steps[0]]
    for t, weights in enumerate(steps[1:], start=1):
        decay = min(DECAY, (1 + t) / (10 + t))
        pairs = zip(averages[-1], weights, strict=True)
        averages.append([decay * average + (1 - decay) * weight for average, weight in pairs])
    return averages


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-true"}],
    ids=["float32", "accumulating", "bfloat16"],
)
@pytest.mark.parametrize("graphs", [False, True])
def test_validation_measures_the_averages_and_training_goes_on_with_the_weights(graphs, options):
    seen, task = train(DECAY, [AsGraph(loss_and_outputs)] if graphs else [], **options)
    plain, _ = train(None, **options)
    assert len(seen.steps) == 1 + BATCHES // options.get("accumulate_grad_batches", 1)
    for with_averages, without in zip(seen.steps, plain.steps, strict=True):
        assert all(map(np.array_equal, with_averages, without))
    expected = averages_of(seen.steps)
    found = [*seen.validated, (len(seen.steps) - 1, weights_of(task))]
    assert len(found) == 5
    near = {"rtol": 1e-2, "atol": 1e-3} if options.get("precision") else {"rtol": 1e-4}
    for step, weights in found:
        for pair in zip(weights, expected[step], strict=True):
            np.testing.assert_allclose(*pair, **{"atol": 1e-6} | near)
    assert not all(map(np.array_equal, weights_of(task), seen.steps[-1]))


def test_tied_and_unfrozen_weights_are_averaged_and_saved_in_all_places(tmp_path):
    class Tied(ImageClassifier):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.again = self.network
            self.first = next(self.network.parameters())
            self.first.requires_grad_(False)

        def on_train_epoch_start(self):
            self.first.requires_grad_(self.current_epoch > 0)

    task = task_with_flags(Tied)(num_classes=10, small_images=True, ema=DECAY)
    trainer = L.Trainer(**QUIET, max_epochs=2, limit_train_batches=3, limit_val_batches=0)
    saved = []

    class Save(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "saved.ckpt")
            saved.append(torch.load(tmp_path / "saved.ckpt"))

    trainer.callbacks.append(Save())
    trainer.fit(task, datamodule=ImageData("digits", batch_size=16))
    before, after = (each["averaging"]["weights"] for each in saved)
    first = [
        name
        for name, weight in task.named_parameters(remove_duplicate=False)
        if weight is task.first
    ]
    assert len(first) == 3 and after.keys() - before.keys() == set(first)
    for name, weight in after.items():
        average = saved[1]["state_dict"][name]
        assert torch.equal(average, task.state_dict()[name]) and not torch.equal(average, weight)


def test_weights_of_any_layout_and_kind_are_averaged():
    task = torch.nn.Module()
    task.gaps = torch.nn.Parameter(torch.randn(4, 6)[:, ::2])
    task.turned = torch.nn.Parameter(torch.randn(3, 5).T)
    task.complex = torch.nn.Parameter(torch.randn(4, dtype=torch.complex64))
    task.device, averaged = torch.device("cpu"), WeightAverage(DECAY)
    averaged.on_train_start(SimpleNamespace(global_step=0), task)
    averaged.on_train_batch_start(None, task, None, 0)
    before = [weight.detach().clone() for weight in task.parameters()]
    for weight in task.parameters():
        weight.data.mul_(3)
    averaged.step_ends()
    averaged.settle()
    share = 9 / 11
    for weight, old in zip(task.parameters(), before, strict=True):
        expected = old + share * (weight.detach() - old)
        torch.testing.assert_close(averaged.averages[weight], expected)


@pytest.mark.parametrize("changes_within", [None, "weight", "weight.data"])
@pytest.mark.parametrize("kind", KINDS)
def test_averages_that_lag_by_a_step_are_the_same_when_they_are_read(kind, changes_within):
    """As a step graph computes them, whether a forward pass only reads the weights or not.

    0: the averages never lag. 1: a step is one block. 2: a step is two, with a validation between.
    """
    found = []
    for lags in range(3):
        torch.manual_seed(0)
        task = torch.nn.Linear(1000, 1000, device=kind)
        task.device, averaged, read = torch.device(kind), WeightAverage(DECAY), []
        averaged.on_train_start(SimpleNamespace(global_step=0), task)
        averaged.on_train_batch_start(None, task, None, 0)
        for step in range(12):
            changes = [torch.randn_like(weight) for weight in task.parameters()]
            if lags:
                averaged.prepare()
            with averaged.beside() if lags else nullcontext(), torch.no_grad():
                if changes_within:
                    attrgetter(changes_within)(task).div_(task.weight.norm())
            if lags == 2:
                averaged.settle()
            for weight, change in zip(task.parameters(), changes, strict=True):
                weight.data.add_(change)
            averaged.step_ends()
            if not lags or step in (3, 4, 11):
                averaged.settle()
                averaged.settle()
            if step in (3, 4, 11):
                read.append([average.clone() for average in averaged.averages.values()])
                read[-1].append(torch.tensor(averaged.updates))
        assert averaged.changed_within == bool(lags and changes_within)
        found.append(read)
    for one, *others in zip(*found, strict=True):
        assert all(all(map(torch.equal, one, other)) for other in others)
    assert int(found[0][-1][-1]) == 12
