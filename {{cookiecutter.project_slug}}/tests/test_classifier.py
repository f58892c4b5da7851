"""The classifier learns, and counts every image once."""

import lightning as L
import pytest
import torch

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.images.batch import ImageBatch


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(num_classes=10, small_images=True)


def batch_of(n: int, padding: int = 0) -> ImageBatch:
    """Return n images with labels, and `padding` images that only fill the batch."""
    images = torch.randint(0, 256, (n + padding, 3, 8, 8), dtype=torch.uint8)
    row = torch.cat([torch.arange(n), torch.full((padding,), -1)])
    return ImageBatch(images, torch.arange(n + padding) % 10, row)


def test_the_loss_falls_and_the_validation_is_better_than_chance(classifier):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    data = ImageData("digits", batch_size=64)
    batch = next(iter(data.train_dataloader()))
    first = classifier.loss(classifier(batch), batch).item()
    trainer.fit(classifier, datamodule=data)
    assert trainer.callback_metrics["train/loss"] < 0.7 * first
    assert trainer.callback_metrics[classifier.best.metric] > 0.5


def test_the_loss_is_a_scalar_that_gives_every_trainable_weight_a_gradient(classifier):
    batch = batch_of(20)
    loss = classifier.loss(classifier(batch), batch)
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()
    learning = [weight for weight in classifier.parameters() if weight.requires_grad]
    assert learning and all(weight.grad is not None for weight in learning)


def test_images_that_only_fill_a_batch_do_not_count(classifier):
    padded = batch_of(5, padding=3)
    whole = ImageBatch(*(part if part is None else part[:5] for part in padded))
    classifier.eval()
    with torch.no_grad():
        for name, (total, count) in classifier.totals(classifier(padded), padded).items():
            expected = classifier.totals(classifier(whole), whole)[name]
            torch.testing.assert_close((total, count), expected)


def test_predictions_are_probabilities(classifier):
    probabilities = classifier.predict(classifier(batch_of(6)))
    assert probabilities.shape == (6, 10) and (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))


def test_the_loss_of_a_mixed_image_weights_both_labels(classifier):
    batch = batch_of(6)
    logits = torch.randn(6, 10)
    alone = classifier.loss(logits, batch)
    swapped = batch._replace(labels=batch.labels.flip(0))
    for weight in (1.0, 0.5):
        mixed = batch._replace(mixed_labels=swapped.labels, mix_weights=torch.full((6,), weight))
        expected = weight * alone + (1 - weight) * classifier.loss(logits, swapped)
        torch.testing.assert_close(classifier.loss(logits, mixed), expected)


def test_a_test_flip_predicts_the_mean_of_image_and_mirror_image(classifier):
    for weights in classifier.parameters():
        weights.data.mul_(2)  # probabilities that are less alike
    flipping = ImageClassifier(num_classes=10, small_images=True, test_flip=True)
    flipping.load_state_dict(classifier.state_dict())
    batch = batch_of(6)
    mirrored = batch._replace(images=batch.images.flip(3))
    trained = []
    for each in (flipping, classifier):
        torch.manual_seed(0)  # of dropout
        trained.append(each.train()(batch))
    assert torch.equal(*trained)
    with torch.no_grad():
        one, other = (classifier.eval().predict(classifier(each)) for each in (batch, mirrored))
        found = flipping.eval().predict(flipping(batch))
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.allclose(found, (one + other) / 2, atol=1e-6)
