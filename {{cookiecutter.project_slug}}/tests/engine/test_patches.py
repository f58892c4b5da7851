"""Private names of other libraries: they are there, last for a fit, and change no bit."""

import ast
import copy
import inspect
import json
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, strategy
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import (
    _LoggerConnector,
)
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from wandb.sdk.lib.wbauth import read_netrc_auth

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.contract import Splits
from {{ cookiecutter.__package_name }}.engine.decisions import Decision
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.fast import patches
from {{ cookiecutter.__package_name }}.engine.fast.compile_messages import (
    Compiling,
)
from {{ cookiecutter.__package_name }}.engine.fast.settings import (
    preserve_process_settings,
)
from {{ cookiecutter.__package_name }}.engine.monitor.progress import Throughput
from {{ cookiecutter.__package_name }}.engine.monitor.trackers import netrc_key
from {{ cookiecutter.__package_name }}.engine.run.checkpoint import (
    validates_next,
    within_step,
)
from {{ cookiecutter.__package_name }}.engine.run.digests import digest
from {{ cookiecutter.__package_name }}.engine.task import loss_and_outputs

ENGINE = Path(package.__file__).parent / "engine"
# Where a private name of another library may be used, and which.
ALLOWED = {
    "fast/patches.py": {
        "_average_model",
        "_broadcast_sigterm_tensor",
        "_checkpoint_connector",
        "_detect_anomaly",
        "_logger_connector",
        "_optimizers_to_device",
        "_skip_backward",
        "_step_supports_amp_scaling",
    },
    "fast/compile.py": {"_compiled_call_impl"},
    "fast/installed_networks.py": {"_dynamo", "_is_compiling_flag"},
    "fast/gradients.py": {"_foreach_add_", "_foreach_copy_"},  # documented by torch
    "images/augmenting/compiled.py": {"_dynamo"},  # maybe_mark_dynamic is documented by torch
    "model/average.py": {"_fused_sgd_", "_version"},  # of torch's optimizers and autograd
    "fast/sync_batch_norm.py": {"_functional_collectives"},
    "run/heartbeat.py": {"_current_frames"},  # documented by Python
    "fast/compile_messages.py": {"_inductor", "_logging"},
    "data/torch_workers.py": {"_iterator", "_new_shared", "_shutdown_workers"},
    "cli/training.py": {"_parse_ckpt_path"},
    "cli/main.py": {"_getframe"},  # documented by Python
    "tools/update.py": {"_TYPER_STANDARD_TRACEBACK"},  # a variable of the environment
}
# Public in spite of the underscore: a NamedTuple's methods, os._exit.
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}
SIGNATURES = {
    _TrainingEpochLoop._broadcast_sigterm_tensor: "(self)",
    _LoggerConnector.log_metrics: "(self, metrics, step=None)",
    _LoggerConnector.update_train_step_metrics: "(self)",
    _CheckpointConnector.dump_checkpoint: "(self, weights_only=None)",
    Precision.clip_gradients: "(self, optimizer, clip_val=0.0, gradient_clip_algorithm={norm!r})",
    LightningCLI._parse_ckpt_path: "(self)",
    LightningCLI.subcommands: "()",
    torch.UntypedStorage._new_shared: "(size, *, device='cpu')",
    _MultiProcessingDataLoaderIter._shutdown_workers: "(self)",
}
QUIET = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "logger"), False)
QUIET |= {"accelerator": "cpu", "enable_model_summary": False, "num_sanity_val_steps": 0}


def fit(*callbacks, model=None, **options):
    """Train digits as a notebook does; return task and Trainer."""
    L.seed_everything(3, verbose=False)
    model = model or ImageClassifier(num_classes=10, small_images=True)
    trainer = L.Trainer(**{"max_steps": 3, **QUIET, **options}, callbacks=list(callbacks))
    trainer.fit(model, datamodule=ImageData("digits", batch_size=64))
    return model, trainer


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_what_is_called_or_replaced_is_called_as_before(function):
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    norm = inspect.signature(Precision.clip_gradients).parameters["gradient_clip_algorithm"].default
    expected = SIGNATURES[function].format(norm=norm)
    assert str(inspect.Signature(bare)) == expected


def test_attributes_that_are_read_or_set_are_there():
    trainer, network = L.Trainer(**QUIET), nn.Linear(1, 1)
    assert isinstance(trainer._logger_connector, _LoggerConnector)
    assert isinstance(trainer._checkpoint_connector, _CheckpointConnector)
    assert isinstance(trainer.fit_loop.epoch_loop, _TrainingEpochLoop)
    assert WeightAveraging()._average_model is None
    assert DataLoader([1])._iterator is None
    assert torch.optim.SGD(network.parameters(), fused=True)._step_supports_amp_scaling
    assert network._compiled_call_impl is None
    network.compile()
    assert network._compiled_call_impl is not None
    logs = inspect.signature(torch._logging.set_logs).parameters
    assert {"graph_breaks", "recompiles"} <= set(logs)


@pytest.mark.parametrize("left", [False, True])
def test_a_fit_can_end_without_moving_anything_to_the_cpu(left, monkeypatch):
    moved = []
    monkeypatch.setattr(strategy, "_optimizers_to_device", lambda *_: moved.append("optimizers"))
    monkeypatch.setattr(ImageClassifier, "cpu", lambda self: moved.append("weights"))
    copied = []

    class Copies(L.Callback):
        def on_train_end(self, trainer, pl_module):
            copied.append(copy.deepcopy(pl_module))

    trainer = L.Trainer(max_steps=1, callbacks=[Copies()], **QUIET)
    model = ImageClassifier(num_classes=10, small_images=True)
    with patches.left_on_device(trainer, model) if left else nullcontext():
        trainer.fit(model, datamodule=ImageData("digits", batch_size=64))
    assert moved == ["optimizers", *([] if left else ["optimizers", "weights"])]  # first to begin
    assert "cpu" not in vars(copied[0]), "a copy would be moved as the task itself"
    assert "cpu" not in vars(model)


def test_lightning_builds_ddp_on_a_side_stream_so_that_a_warning_has_to_be_silenced():
    """If this fails, Lightning's issue 21567 is fixed: remove the line in monitor/__init__.py."""
    assert "torch.cuda.stream(torch.cuda.Stream())" in inspect.getsource(DDPStrategy._setup_model)


def test_lightning_notes_hooks_on_the_module_so_often_that_it_takes_time(monkeypatch):
    noted = []
    monkeypatch.setenv(patches.SWITCH, "off")

    class Notes(ImageClassifier):
        def __setattr__(self, name, value):
            noted.append(name)
            super().__setattr__(name, value)

    fit(model=Notes(num_classes=10, small_images=True))
    assert noted.count("_current_fx_name") > 3 * 20


def test_a_manual_step_is_counted_by_the_progress_that_the_step_graph_advances():
    trainer = L.Trainer(**QUIET)
    trainer.strategy.connect(ImageClassifier(num_classes=10, small_images=True))
    trainer.lightning_module.automatic_optimization = False
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()
    assert trainer.global_step == 1


def test_a_checkpoint_is_laid_out_as_resuming_expects(trained):
    last = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    for progress in (patches.training_progress(last), patches.validation_progress(last)):
        assert progress["total"].keys() == {"ready", "started", "processed", "completed"}
        assert progress["current"].keys() == progress["total"].keys()
    assert patches.training_progress(last)["total"]["processed"] == last["global_step"] == 64
    best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["hyper_parameters"]["num_classes"] == 10
    assert best["state_dict"].keys() == last["state_dict"].keys()
    assert "optimizer_states" in last and "optimizer_states" not in best
    assert best["state_dict"]._metadata.keys() == last["state_dict"]._metadata.keys()


class Compares(L.Callback):
    """Holds what the engine says of a step against Lightning's own answer."""

    def __init__(self, stop_at=None):
        self.stop_at, self.seen = stop_at, set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loop = trainer.fit_loop
        if trainer.global_step == self.stop_at:
            trainer.should_stop = True
        within = within_step(trainer)
        assert within == loop.epoch_loop._should_accumulate()
        due = None
        if batch_idx + 1 < trainer.num_training_batches:
            due = validates_next(trainer)
            assert due == loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        self.seen.add((within, due))


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, {(False, False), (False, None)}),
        ({"accumulate_grad_batches": 3}, {(True, False), (False, False), (False, None)}),
        ({"val_check_interval": 0.25}, {(False, False), (False, True), (False, None)}),
        (
            {"val_check_interval": 3, "check_val_every_n_epoch": None},
            {(False, False), (False, True), (False, None)},
        ),
        (
            {"accumulate_grad_batches": 2, "val_check_interval": 5},
            {(True, False), (True, True), (False, False), (False, True), (False, None)},
        ),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 0.5}, None),
        ({"limit_val_batches": 0}, {(False, False), (False, None)}),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_when_a_step_and_a_validation_are_due_is_what_lightning_says(options, seen):
    compares = Compares()
    fit(compares, max_steps=-1, max_epochs=2, **options)
    assert seen is None or compares.seen == seen


def test_whether_a_run_that_stops_validates_is_what_lightning_says():
    for options in ({}, {"min_epochs": 2}, {"min_steps": 20}):
        compares = Compares(stop_at=5)
        fit(compares, max_steps=-1, max_epochs=3, **options)
        assert ((False, True) in compares.seen) == ("min_epochs" not in options)
        assert ((False, None) in compares.seen) == bool(options)


def test_patches_change_no_bit(call, tmp_path, monkeypatch):
    flags = ("fit", "--config", "configs/digits.yaml", "--trainer.max_epochs=1")
    flags += ("--trainer.log_every_n_steps=1", "--trainer.val_check_interval=7")
    found = []
    for switch in ("", "off"):
        monkeypatch.setenv(patches.SWITCH, switch)
        assert call(*flags, folder=tmp_path / f"run{switch}") == 0
        found.append(json.loads((tmp_path / f"run{switch}" / "digests.json").read_text()))
    assert found[0] == found[1] and len(found[0]["losses"]) == 16 and found[0]["optimizer"]


def state():
    """Return what a fit could leave behind in the process."""
    return {
        "attributes": [(kind, dict(vars(kind))) for kind in (ImageClassifier, L.Trainer)],
        "precision": torch.get_float32_matmul_precision(),
        "stream": torch.cuda.current_stream() if torch.cuda.is_available() else None,
        "threads": torch._C._is_multithreading_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "warnings": list(warnings.filters),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("PL_")},
    }


def replaced(trainer):
    """Return the functions that parts of a Trainer have of their own, beside their class's."""
    return [
        {name for name, value in vars(part).items() if callable(value)}
        for part in (trainer, trainer.fit_loop.epoch_loop, trainer._logger_connector)
    ]


def test_a_second_fit_equals_the_first_and_inherits_nothing():
    L.seed_everything(3, verbose=False)  # which sets a variable of the environment
    fresh, before, weights = replaced(L.Trainer(**QUIET)), state(), []
    for _ in range(2):
        model, trainer = fit(Throughput(), max_steps=20, log_every_n_steps=50)
        weights.append(digest(model.state_dict()))
        assert model.train_step is loss_and_outputs and model.step_graph is None
        assert trainer.log_every_n_steps == 50 and replaced(trainer) == fresh
        assert state() == before
    assert weights[0] == weights[1]


def test_a_fit_that_fails_leaves_nothing_behind_either():
    class Fails(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            assert "__setattr__" in vars(type(trainer.lightning_module))
            assert not torch._C._is_multithreading_enabled()
            raise ZeroDivisionError

    before, model = state(), ImageClassifier(num_classes=10, small_images=True)
    with pytest.raises(ZeroDivisionError):
        fit(Fails(), model=model)
    assert state() == before


def test_the_command_line_leaves_the_process_as_it_was(call, tmp_path):
    before = state()
    flags = ("--trainer.max_steps=2", "--trainer.deterministic=true")
    assert call("fit", "--config", "configs/digits.yaml", *flags, folder=tmp_path) == 0
    after = state()
    # What the whole program says and does not say is decided before training: quiet_lightning().
    before.pop("warnings"), after.pop("warnings")
    before["environment"].setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    before["environment"].setdefault("OMP_WAIT_POLICY", "passive")
    assert after == before


def test_settings_of_the_process_are_put_back():
    before = state()
    with pytest.raises(KeyError), preserve_process_settings():
        os.environ["MADE_HERE"] = os.environ.pop("PATH")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.set_num_threads(torch.get_num_threads() + 1)
        warnings.simplefilter("error")
        raise KeyError
    assert state() == before and torch.get_num_threads() == 1


def test_an_on_train_start_without_super_loses_nothing():
    class Mine(ImageClassifier):
        def on_train_start(self) -> None:
            self.at_start = self.trainer.log_every_n_steps

    class Looks(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            assert trainer.log_every_n_steps == 16

    model, _ = fit(Looks(), model=Mine(num_classes=10, small_images=True))
    assert model.at_start == 16


def test_patches_are_switched_off_by_name():
    assert patches.switched_on("") == list(patches.PATCHES)
    assert patches.switched_on("off") == []
    left = patches.switched_on("-note_hooks_quickly, -log_without_waiting")
    assert set(patches.PATCHES) - set(left) == {"note_hooks_quickly", "log_without_waiting"}
    with pytest.raises(UserError, match=r"log_without_waiting is unknown.* -note_hooks_quickly"):
        patches.switched_on("log_without_waiting")


def test_batches_of_the_engine_are_on_the_device_and_others_are_moved_there():
    data = ImageData("digits", batch_size=8)
    batch = next(iter(data.eval_loader(data.splits.val)))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    assert data.transfer_batch_to_device(batch, torch.device("meta"), 0).row.is_meta
    assert data.transfer_batch_to_device(torch.ones(2), torch.device("meta"), 0).is_meta
    assert isinstance(data.splits, Splits)


def test_without_torchs_logs_training_goes_on(monkeypatch):
    monkeypatch.delattr(torch._logging, "set_logs")
    task = SimpleNamespace(compile_decision=Decision("default", "asked"))
    listener = Compiling()
    listener.on_train_start(L.Trainer(**QUIET), task)
    assert listener.loggers == []


def test_the_key_of_wandb_is_read_as_wandb_reads_it(tmp_path, monkeypatch):
    file, key = tmp_path / "netrc", "0123456789" * 4
    monkeypatch.setenv("NETRC", str(file))
    servers = ("https://api.wandb.ai", "http://localhost:8080", "https://elsewhere.example")
    assert [netrc_key(server) for server in servers] == [None] * 3
    machines = ("api.wandb.ai", "localhost:8080")
    file.write_text("".join(f"machine {name} login user password {key}\n" for name in machines))
    assert [netrc_key(server) for server in servers] == [key, key, None]
    assert [read_netrc_auth(host=server) for server in servers] == [key, key, None]


BASES = (LightningCLI, L.LightningModule, L.Callback, nn.Module)  # that classes of ours have


def names_in(node):
    """Yield the names of others that a piece of source uses: attributes, imports, overrides."""
    match node:
        case ast.Attribute(attr=name, value=of) if ast.unparse(of) not in ("self", "cls"):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(name), *_]):
            yield name
        case ast.ImportFrom(level=0, module=module):
            yield from [*module.split("."), *(each.name for each in node.names)]
        case ast.Import():
            yield from [part for each in node.names for part in each.name.split(".")]
        case ast.FunctionDef(name=name) if any(hasattr(base, name) for base in BASES):
            yield name  # a method of theirs that ours replaces


def private_names(file):
    """Yield place and name of the private ones that a file uses of others."""
    for node in ast.walk(ast.parse(file.read_text())):
        for name in names_in(node):
            if name.startswith("_") and not name.startswith("__") and name not in PUBLIC:
                yield f"{file.relative_to(ENGINE)}:{node.lineno}", name


def test_private_names_of_other_libraries_are_in_the_files_for_them():
    used = {}
    for file in sorted(ENGINE.rglob("*.py")):
        allowed = ALLOWED.get(file.relative_to(ENGINE).as_posix(), set())
        for place, name in private_names(file):
            if name not in allowed:
                used[place] = name
    assert used == {}


def test_each_allowed_private_name_is_still_used():
    for file, names in ALLOWED.items():
        assert names - {name for _, name in private_names(ENGINE / file)} == set()
