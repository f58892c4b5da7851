"""Networks, optimizers and the Lightning module around them."""

import lightning as L
import pytest
import torch

from {{ cookiecutter.__package_name }}.classifier import (
    ImageClassifier,
    MeanOverImages,
)
from {{ cookiecutter.__package_name }}.data.datamodule import ImageData
from {{ cookiecutter.__package_name }}.errors import UserError
from {{ cookiecutter.__package_name }}.networks import NETWORKS, build_network
from {{ cookiecutter.__package_name }}.optimizers import (
    build_optimizer,
    learning_rate_factor,
)
from {{ cookiecutter.__package_name }}.run.callbacks import StepSeed


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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("small_images", "size"), [(True, 8), (False, 64)])
def test_networks_take_uint8_and_return_logits(name, small_images, size):
    network = build_network(name, num_classes=7, small_images=small_images).eval()
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    logits = network(images)
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32


def test_the_stem_for_small_images_keeps_their_resolution():
    image = torch.zeros(1, 3, 32, 32)
    usual, small = (build_network("resnet18", 10, small).body for small in (False, True))
    assert usual.maxpool(usual.conv1(image)).shape[-1] == 8
    assert small.maxpool(small.conv1(image)).shape[-1] == 32


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(UserError, match="Known: small_cnn, resnet18"):
        build_network("resnet81", 10)


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
        plain = data.splits.train.pixels[batch.indices].permute(0, 3, 1, 2)
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
        logits = model.eval()(split.pixels.permute(0, 3, 1, 2))
    right = (logits.argmax(1) == split.labels).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, split.labels).item()
    for score in scores:
        assert score["val/accuracy"] == pytest.approx(right, abs=1e-6)
        assert score["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_a_mean_over_images_weights_by_images():
    mean = MeanOverImages()
    mean.update(torch.tensor(9.0), torch.tensor(9))
    mean.update(torch.tensor(0.0), torch.tensor(1))
    assert mean.compute() == pytest.approx(0.9)
