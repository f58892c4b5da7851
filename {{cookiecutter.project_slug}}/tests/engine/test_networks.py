"""Networks, optimizers and the Lightning module around them."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torchvision import models

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    data_with_flags,
    task_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.data.rows import as_rows
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.torchvision_networks import (
    load_pretrained,
    torchvision_names,
    weights_file,
)
from {{ cookiecutter.__package_name }}.engine.model.checks import check_task
from {{ cookiecutter.__package_name }}.engine.model.freeze import (
    freeze,
    head_of,
    unfreeze,
)
from {{ cookiecutter.__package_name }}.engine.model.means import (
    RunningTotals,
    ratio,
)
from {{ cookiecutter.__package_name }}.engine.model.optimizers import (
    build_optimizer,
    learning_rate_factor,
)
from {{ cookiecutter.__package_name }}.engine.model.recompute import (
    recompute_blocks,
)
from {{ cookiecutter.__package_name }}.engine.run.numerics import StepSeed
from {{ cookiecutter.__package_name }}.engine.task import check_members
from {{ cookiecutter.__package_name }}.networks import NETWORKS, build_network

SMALL = "shufflenet_v2_x0_5"  # torchvision's smallest
DIGITS = ("--config", "configs/digits.yaml")


IN_EVAL_MODE = "ignore:.*in eval mode at the start of training"  # as what is frozen is


def fit(model: ImageClassifier, steps: int = 6, **options) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
        **options,
    )
    trainer.fit(model, datamodule=ImageData("digits", batch_size=64, crop_padding=1))
    return trainer


@pytest.mark.parametrize("name", ["efficientnet_b0", "googlenet", "squeezenet1_1"])
def test_a_network_of_torchvision_needs_only_its_name(name):
    network = build_network(name, 7).train()
    assert network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_the_stem_for_small_images_keeps_their_resolution(name):
    image = torch.zeros(1, 3, 32, 32)
    usual, small = (build_network(name, 10, small).body for small in (False, True))
    assert usual.maxpool(usual.conv1(image)).shape[-1] == 8
    assert small.maxpool(small.conv1(image)).shape[-1] == 32


@pytest.mark.parametrize("name", ["mobilenet_v2", SMALL])
def test_a_stem_for_small_images_that_there_is_not_is_refused(name):
    with pytest.raises(UserError, match=r"stem of a ResNet: set it to false"):
        build_network(name, 10, small_images=True)


def test_an_unknown_network_lists_the_known_ones():
    known = f"Known: small_cnn, resnet18, and torchvision's {len(torchvision_names())}"
    with pytest.raises(UserError, match=f"Close: resnet18, resnet.*{known}"):
        build_network("resnet81", 10)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.jit.script(nn.ReLU()), r"a RecursiveScriptModule: return the plain nn\.Module"),
        (None, r"'mine' in networks\.py returns None: is `return` missing\?"),
    ],
    ids=["script", "nothing"],
)
def test_what_is_no_plain_module_is_refused(wrong, said, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", lambda num_classes, small_images: wrong)
    with pytest.raises(UserError, match=said):
        build_network("mine", 10)


def test_a_layer_of_torch_that_does_not_fit_is_named(monkeypatch):
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten())
    monkeypatch.setitem(NETWORKS, "mine", lambda num_classes, small_images: layers)
    said = r"networks\.py, line \d+, in forward: in body\.2, Conv2d\(4, 8, .*\): Given groups=1, "
    with pytest.raises(UserError, match=said):
        fit(ImageClassifier(network="mine", num_classes=10))


def test_a_network_for_larger_images_is_refused_before_training(monkeypatch):
    for_32 = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    monkeypatch.setitem(NETWORKS, "mine", lambda num_classes, small_images: for_32)
    with pytest.raises(UserError, match=r"'mine' can't take the data's images \(3, 8, 8\)"):
        fit(ImageClassifier(network="mine", num_classes=10))


def test_a_network_with_a_head_for_other_classes_is_refused_before_training(monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", lambda num_classes, small_images: small_network(1000))
    with pytest.raises(UserError, match=r"returns \(1, 1000\) for one image; expected \(1, 10\)"):
        fit(ImageClassifier(network="mine", num_classes=10))


def test_looking_at_a_network_changes_nothing():
    data, model = ImageData("digits"), ImageClassifier(num_classes=10, small_images=True)
    network = model.network
    network.body[1].eval()
    network.body.register_forward_pre_hook(lambda module, images: (images[0] + torch.rand(1),))
    before = copy.deepcopy(network)
    drawn = torch.get_rng_state()
    check_task(model, as_rows(data.splits.train), data.facts())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert alike(network.state_dict(), before.state_dict())
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]


def small_network(num_classes: int) -> nn.Module:
    return models.get_model(SMALL, num_classes=num_classes)


def alike(some: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts hold the same names and the same bits."""
    return some.keys() == other.keys() and all(torch.equal(some[k], other[k]) for k in some)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a network for ImageNet's 1,000 classes, such as torchvision's files hold."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(small_network(1000).state_dict(), path)
    return path


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_pretrained_weights_are_taken_and_only_a_head_for_other_classes_is_fresh(
    num_classes, weights
):
    network, file = small_network(num_classes), torch.load(weights)
    fresh = {key: network.state_dict()[key].clone() for key in ("fc.weight", "fc.bias")}
    said = load_pretrained(network, SMALL, str(weights))
    assert alike(network.state_dict(), file | (fresh if num_classes == 10 else {}))
    assert ("a new head (fc)" in said) == (num_classes == 10)


def test_a_checkpoint_of_a_run_is_taken_as_pretrained(trained):
    best = trained / "checkpoints" / "best.ckpt"
    network = build_network("small_cnn", 10, small_images=True)
    load_pretrained(network.body, "small_cnn", str(best))
    with pytest.raises(UserError, match=f"is a folder; .* weights of this run are {best}"):
        load_pretrained(network.body, "small_cnn", str(trained))
    assert alike(network.state_dict(), build_from(best).network.state_dict())


def build_from(checkpoint: Path) -> ImageClassifier:
    return ImageClassifier.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)


def test_densenets_weights_are_taken_under_their_old_names(tmp_path):
    network, file = models.densenet121(num_classes=10), tmp_path / "old.pth"
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert any(key.startswith("features.denseblock1.denselayer1.norm.1.") for key in old)
    torch.save(old, file)
    other = models.densenet121(num_classes=10)
    load_pretrained(other, "densenet121", str(file))
    assert alike(other.state_dict(), network.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "is damaged"),
        (None, "can't be read: No such file"),
        ({"epoch": 3}, "holds no state dict"),
        ({"fc.weight": torch.ones(10, 3)}, r"conv1.0.weight is not in it and .*\(and \d+ more\)"),
        (models.resnet18(num_classes=10).state_dict(), r"conv1\.0\.weight is not in it"),
    ],
    ids=["damaged", "missing", "no weights", "one weight", "another network"],
)
def test_a_pretrained_file_that_does_not_fit_is_refused(content, message, tmp_path):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        torch.save(content, file)
    with pytest.raises(UserError, match=message):
        load_pretrained(small_network(10), SMALL, str(file))


def test_pretrained_weights_are_refused_by_another_stem(tmp_path):
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    network = build_network("resnet18", 10, small_images=True)
    with pytest.raises(UserError, match=r"conv1\.weight is \(64, 3, 7, 7\) in it and .*3\) here"):
        load_pretrained(network.body, "resnet18", str(tmp_path / "resnet18.pth"))


def test_without_a_network_pretrained_names_the_file_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(UserError) as refused:
        weights_file("resnet18", True)
    message, folder = str(refused.value), tmp_path / "hub" / "checkpoints"
    assert f"Put that file into {folder}" in message and "resnet18-f37072fd.pth" in message
    assert "--model.pretrained path/to/resnet18-f37072fd.pth" in message
    assert not list(folder.iterdir())
    (folder / "resnet18-f37072fd.pth").touch()
    assert weights_file("resnet18", True) == folder / "resnet18-f37072fd.pth"


def test_torchvision_has_no_weights_for_a_network_of_our_own():
    with pytest.raises(UserError, match="torchvision has no weights for 'small_cnn'"):
        weights_file("small_cnn", True)


def test_a_run_needs_its_pretrained_file_only_when_it_starts(trained, call, tmp_path, capsys):
    file, run = tmp_path / "pretrained.ckpt", tmp_path / "run"
    shutil.copy(trained / "checkpoints" / "best.ckpt", file)
    flags = ("--trainer.max_epochs", "1", "--model.pretrained", str(file))
    assert call("fit", *DIGITS, *flags, "--model.learning_rate", "0", folder=run) == 0
    assert "pretrained: weights of pretrained.ckpt" in capsys.readouterr().out
    started = build_from(run / "checkpoints" / "last.ckpt")
    first = dict(build_from(file).named_parameters())
    assert alike(dict(started.named_parameters()), first)
    file.unlink()
    assert call("test", "--run", str(run)) == 0
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "2") == 0
    assert "pretrained:" not in capsys.readouterr().out


def test_a_frozen_backbone_without_trained_weights_is_noted(trained, call, tmp_path, capsys):
    flags = ("--trainer.max_steps", "1", "--model.freeze_backbone", "true")
    for name, pretrained in (
        ("random", "false"),
        ("trained", str(trained / "checkpoints/best.ckpt")),
    ):
        more = ("--model.pretrained", pretrained)
        assert call("fit", *DIGITS, *flags, *more, folder=tmp_path / name) == 0
        noted = "note: model.pretrained is not set" in capsys.readouterr().out
        assert noted is (name == "random")


class Modes(ImageClassifier):
    """Keep which modules were in training mode at each step."""

    def training_step(self, batch, batch_idx):
        modes = {name for name, module in self.network.body.named_modules() if module.training}
        self.modes = [*getattr(self, "modes", []), modes]
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings(IN_EVAL_MODE)
def test_of_a_frozen_backbone_nothing_changes_but_the_head():
    model = Modes(network=SMALL, num_classes=10, freeze_backbone=True)
    before = copy.deepcopy(model.network.state_dict())
    trainer = fit(model, steps=4, val_check_interval=2)
    after = model.network.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"body.fc.weight", "body.fc.bias"}
    assert model.modes == [{"fc"}] * 4  # also after validation
    learning = {id(p) for p in trainer.optimizers[0].state}
    assert learning == {id(p) for p in model.network.body.fc.parameters()}


class HidesItsLoss(ImageClassifier):
    def __init__(self) -> None:
        super().__init__("small_cnn", 10, small_images=True)
        self.loss = nn.CrossEntropyLoss()


def test_an_attribute_that_hides_a_method_of_the_task_is_named():
    with pytest.raises(UserError, match=r"self\.loss is set to a CrossEntropyLoss.*loss_function"):
        fit(HidesItsLoss())


class LaterOn(ImageClassifier):
    """Let the body learn too from the second epoch on."""

    def on_train_epoch_start(self):
        self.before = copy.deepcopy(self.network.state_dict())
        if self.current_epoch == 1:
            unfreeze(self.network)


@pytest.mark.filterwarnings(IN_EVAL_MODE)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_unfrozen_in_mid_run_begins_to_learn(optimizer):
    model = LaterOn("small_cnn", 10, small_images=True, freeze_backbone=True, optimizer=optimizer)
    fit(model, steps=32)
    after = model.network.state_dict()
    assert all(
        not torch.equal(model.before[key], value)
        for key, value in after.items()
        if key.endswith(("weight", "running_mean"))
    )


class WithoutTheBody(LaterOn):
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


@pytest.mark.filterwarnings(IN_EVAL_MODE)
def test_unfrozen_weights_that_no_optimizer_has_are_an_error_and_do_not_stay_as_they_are():
    model = WithoutTheBody("small_cnn", 10, small_images=True, freeze_backbone=True)
    with pytest.raises(UserError, match=r"18 weights .* in epoch 1 .* network\.body\.0\.weight"):
        fit(model, steps=32)


def test_a_backbone_whose_head_is_not_its_last_layer_is_refused():
    with pytest.raises(UserError, match="'1' with 4 outputs; expected the head with 10"):
        freeze(nn.Sequential(nn.Linear(3, 10), nn.Linear(10, 4)), outputs=10)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "swin_t", "vit_b_32", "maxvit_t"])
def test_the_head_is_what_the_number_of_classes_changes(name):
    with torch.device("meta") if name.startswith(("m", "v")) else torch.device("cpu"):
        a, b = (models.get_model(name, num_classes=n).state_dict() for n in (7, 8))
        head = head_of(models.get_model(name, num_classes=7))[0]
    assert {key.rpartition(".")[0] for key in a if a[key].shape != b[key].shape} == {head}


def learn(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list, int]:
    """Return the loss, all gradients, buffers and the next random number, and the bytes kept."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(network(images), torch.arange(len(images)))
    weights = {p.data_ptr() for p in network.parameters()}
    loss.backward()
    all_else = [p.grad for p in network.parameters()] + [*network.buffers(), torch.rand(1)]
    return loss.detach(), all_else, sum(t.nbytes for at, t in kept.items() if at not in weights)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "swin_t"])
def test_recomputing_blocks_saves_memory_and_changes_no_bit(name):
    network = models.get_model(name, num_classes=7)
    recomputed = copy.deepcopy(network)
    recompute_blocks(recomputed)
    assert list(recomputed.state_dict()) == list(network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    loss, others, kept = learn(network, images)
    loss_again, others_again, kept_again = learn(recomputed, images)
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(a, b) for a, b in zip(others, others_again, strict=True))
    assert kept_again < kept * 0.6


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, images):
        return images + self.norm(self.convolution(images)).relu()


def test_compiled_recomputation_keeps_the_keys_the_loss_and_one_graph():
    body = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), Block(), nn.Flatten(), nn.Linear(512, 7))
    recomputed = copy.deepcopy(body)
    recompute_blocks(recomputed)
    keys = list(body.state_dict())
    torch._dynamo.reset()
    counters.clear()
    # As the default backend cuts a graph in forward and backward, without its code for the CPU.
    recomputed.compile(backend="aot_eager_decomp_partition")
    images = torch.rand(2, 3, 8, 8)
    loss, others, kept = learn(body, images)
    loss_again, others_again, kept_again = learn(recomputed, images)
    assert list(recomputed.state_dict()) == keys
    assert counters["stats"]["unique_graphs"] == 1
    assert kept_again < kept
    torch.testing.assert_close(loss_again, loss)
    torch.testing.assert_close(others_again, others)


def test_a_network_without_blocks_can_not_recompute_them():
    with pytest.raises(UserError, match="this Network has none"):
        task_with_flags(ImageClassifier)(num_classes=10, activation_checkpointing=True)


def test_a_run_that_recomputes_ends_with_the_same_weights():
    ends = []
    for recomputing in (False, True):
        torch.manual_seed(0)
        model = task_with_flags(ImageClassifier)(
            network="mobilenet_v3_small", num_classes=10, activation_checkpointing=recomputing
        )
        fit(model, steps=3, callbacks=[StepSeed(0)])
        ends.append(model.state_dict())
    assert alike(*ends)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model.network", "resnet18"), "model.network is small_cnn in it and resnet18 here"),
        (("--data.source", "synthetic"), "'class 0' is a class of the data, not of the run (and"),
        (
            ("--data.source", "synthetic", "--data.options.num_classes", "3"),
            "'class 0' is a class of the data, not of the run (and 12 more)",
        ),
    ],
    ids=["network", "class names", "classes"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(flags, message, trained, call, capsys):
    if "synthetic" in flags:
        flags += ("--data.options.train", "100", "--data.options.val", "100")
    assert call("test", "--run", str(trained), *flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_refused_resume_leaves_the_run_as_it_was(trained, call, capsys):
    files = sorted(trained.rglob("*")), (trained / "run.json").read_bytes()
    flags = ("--trainer.max_epochs", "5", "--model.optimizer", "adamw")
    assert call("fit", "--run", str(trained), *flags) == 2
    assert "model.optimizer was sgd, is adamw" in capsys.readouterr().err
    assert files == (sorted(trained.rglob("*")), (trained / "run.json").read_bytes())


@pytest.mark.parametrize("kind", ["text", "weights", "missing"])
def test_a_file_that_is_no_checkpoint_is_refused(kind, weights, call, capsys, tmp_path):
    path = {"text": tmp_path / "notes.ckpt", "weights": weights, "missing": tmp_path / "no.ckpt"}
    (tmp_path / "notes.ckpt").write_text("no weights")
    assert call("test", *DIGITS, "--ckpt_path", str(path[kind])) == 2
    error = capsys.readouterr().err.strip()
    expected = {"text": "is damaged", "weights": "not a checkpoint of this project"}
    assert expected.get(kind, "can't be read: No such file") in error and "\n" not in error


def test_a_checkpoint_knows_its_classes(trained):
    for name in ("best", "last"):
        saved = torch.load(trained / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["classes"] == [str(i) for i in range(10)] and "Conv2d" in saved["architecture"]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_schedules_warm_up_to_the_full_rate(schedule):
    rates = [learning_rate_factor(schedule, 0.2, step / 100) for step in range(101)]
    assert rates[0] == 0
    assert rates[10] == pytest.approx(0.5)
    assert max(rates) == rates[20] == pytest.approx(1)
    assert rates[-1] == pytest.approx(1 if schedule == "constant" else 0, abs=1e-9)
    assert sorted(rates[20:], reverse=True) == rates[20:]


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warmup_that_is_no_share_is_refused(warmup):
    with pytest.raises(UserError, match="warmup"):
        fit(ImageClassifier(num_classes=10, warmup=warmup))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizers_are_fused_and_spare_biases_and_norms_the_decay(name):
    network = build_network("small_cnn", 10)
    optimizer = build_optimizer(network, name, 0.1, 0.01, 0.9)
    decayed, spared = optimizer.param_groups
    assert decayed["fused"] and spared["fused"]
    assert decayed["weight_decay"] == 0.01 and spared["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


class Watched(ImageClassifier):
    """Keep every gradient that the optimizer is given."""

    def configure_gradient_clipping(self, *arguments, **options):
        super().configure_gradient_clipping(*arguments, **options)
        self.gradients = [*getattr(self, "gradients", []), _gradient(self)]


def _gradient(model: ImageClassifier) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_and_accumulation_work_with_fused_optimizers(optimizer, algorithm):
    model = Watched(num_classes=10, small_images=True, optimizer=optimizer)
    clip = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    trainer = fit(model, precision="bf16-mixed", accumulate_grad_batches=2, **clip)
    assert trainer.global_step == 6
    assert trainer.fit_loop.total_batch_idx + 1 == 12
    sizes = [g.norm() if algorithm == "norm" else g.abs().max() for g in model.gradients]
    assert len(sizes) == 6
    assert all(size == pytest.approx(0.01, rel=1e-3) for size in sizes)


class Recorded(ImageClassifier):
    """Keep what each step was given and which numbers torch would draw in it."""

    def training_step(self, batch, batch_idx):
        self.steps = [*getattr(self, "steps", []), (batch, torch.rand(1).item())]
        return super().training_step(batch, batch_idx)


def test_training_sees_augmented_images_and_draws_anew_at_each_step():
    model = Recorded(num_classes=10, small_images=True)
    data = fit(model, steps=4, callbacks=[StepSeed(0)]).datamodule
    for batch, _ in model.steps:
        plain = data.splits.train.images[batch.row]
        changed = (batch.images != plain).flatten(1).any(1)
        assert 0.6 < changed.float().mean() < 1  # one ninth of the shifts is none
    assert len({drawn for _, drawn in model.steps}) == 4


def test_the_loss_falls():
    model = ImageClassifier(num_classes=10, small_images=True)
    trainer = fit(model, steps=60)
    assert trainer.callback_metrics["train/loss"] < 0.8


def test_validation_counts_each_image_once_whatever_the_batch_size():
    model = ImageClassifier(num_classes=10, small_images=True)
    scores = []
    for batch_size in (7, 256, 360):
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        data = ImageData("digits", eval_batch_size=batch_size)
        scores.append(trainer.validate(model, datamodule=data, verbose=False)[0])
    split = data.splits.val
    with torch.inference_mode():
        logits = model.eval()(split)
    right = (logits.argmax(1) == split.labels).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, split.labels).item()
    for score in scores:
        assert score["val/accuracy"] == pytest.approx(right, abs=1e-6)
        assert score["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_a_mean_weights_by_what_it_counts():
    running = RunningTotals()
    running.add({"loss": (torch.tensor(9.0), torch.tensor(9))})
    running.add({"loss": (torch.tensor(0.0), torch.tensor(1))})
    assert running.means()["loss"] == pytest.approx(0.9)


def test_a_metric_of_classes_is_the_mean_over_those_that_have_a_count():
    assert ratio(torch.tensor([1, 3, 0]), torch.tensor([2, 4, 0])) == pytest.approx(0.625)


def test_what_is_frozen_and_unfrozen_learns_again():
    network = build_network("small_cnn", 10)
    freeze(network, outputs=10)
    assert [key for key, p in network.named_parameters() if p.requires_grad] == [
        *("body.21.weight", "body.21.bias"),
    ]
    unfreeze(network)
    assert all(p.requires_grad for p in network.parameters()) and network.body[1].training


class Volumes(ImageClassifier):
    """Has weights of five dimensions, which no memory format of images fits."""

    def __init__(self) -> None:
        super().__init__("small_cnn", 10, small_images=True)
        self.network.body = nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)
        )


def test_a_network_of_volumes_trains_too():
    assert fit(Volumes(), steps=2).global_step == 2


class KeepsNoSettings(ImageClassifier):
    def save_hyperparameters(self, *_) -> None:
        pass


def test_a_task_that_keeps_no_settings_is_refused():
    with pytest.raises(UserError, match=r"Call self\.save_hyperparameters\(\)"):
        fit(KeepsNoSettings("small_cnn", 10))


def test_a_metric_of_several_outputs_is_their_mean_also_if_they_share_a_count():
    assert ratio(torch.tensor([1.0, 3.0]), torch.tensor(4)) == 0.5


def test_a_setting_that_the_engine_has_too_is_refused():
    class Split(ImageData):
        def __init__(self, batch_size: int = 4, seed: int = 0) -> None: ...

    class Compiles(ImageClassifier):
        def __init__(self, compile: bool = False) -> None: ...

    class Sizeless(ImageData):
        def __init__(self) -> None: ...

    @dataclass
    class Options:
        workers: int = 2

    class PassesOn(ImageData):
        def __init__(self, batch_size: int = 4, **options: Any) -> None:
            self.options = Options(**options)

    for refused, message in (
        (lambda: data_with_flags(Split), "a setting 'seed', also a flag of the engine"),
        (lambda: task_with_flags(Compiles), "a setting 'compile', also a flag of the engine"),
        (lambda: data_with_flags(Sizeless), "has no batch_size"),
        (lambda: data_with_flags(PassesOn), "a setting 'workers', also a flag of the engine"),
    ):
        with pytest.raises(UserError, match=message):
            refused()


class WithCallbacks(ImageClassifier):
    def configure_callbacks(self) -> list:
        return []


def test_a_hook_that_the_engine_needs_is_refused():
    with pytest.raises(UserError, match=r"configure_callbacks\(\) of its own.*trainer\.callbacks"):
        check_members(WithCallbacks)
