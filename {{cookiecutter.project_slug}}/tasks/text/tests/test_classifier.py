"""The classifier learns, and what it is built from, loads and exports fits together."""

from pathlib import Path

import lightning as L
import pytest
import torch

from {{ cookiecutter.__package_name }}.classifier import TextClassifier
from {{ cookiecutter.__package_name }}.data import TextData
from {{ cookiecutter.__package_name }}.engine import Best, UserError
from {{ cookiecutter.__package_name }}.engine.text.batch import TextBatch

SIZES = {"num_classes": 3, "vocab_size": 40}


@pytest.fixture(scope="module")
def data() -> TextData:
    return TextData("languages", batch_size=32, vocabulary=600)


def classifier(**settings) -> TextClassifier:
    return TextClassifier(**SIZES | settings)


def batch_of(n: int, length: int = 16) -> TextBatch:
    """Return n rows of random tokens with labels."""
    tokens = torch.randint(2, 40, (n, length), dtype=torch.int32)
    lengths = length - torch.arange(n, dtype=torch.int32) % 4
    return TextBatch(tokens, None, lengths, torch.arange(n) % 3, torch.arange(n))


def trainer(**settings) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        **settings,
    )


def test_the_loss_falls_and_the_validation_is_better_than_chance(data):
    task = classifier(num_classes=20, vocab_size=data.vocab_size, learning_rate=0.003)
    batch = next(iter(data.train_dataloader()))
    first = task.eval().loss(task(batch), batch).item()
    fitting = trainer(max_epochs=1, limit_train_batches=120, limit_val_batches=2)
    fitting.fit(task.train(), datamodule=data)
    assert task.eval().loss(task(batch), batch) < 0.85 * first
    assert fitting.callback_metrics["val/accuracy"] > 0.2  # by chance: 0.05


def test_masked_tokens_are_learned_from_the_same_texts():
    data = TextData("languages", batch_size=32, vocabulary=600, masking=0.15)
    task = classifier(
        num_classes=data.num_classes,
        vocab_size=data.vocab_size,
        objective=data.objective,
        learning_rate=0.003,
    )
    batch = next(iter(data.train_dataloader()))
    first = task.loss(task(batch), batch).item()
    fitting = trainer(max_epochs=1, limit_train_batches=30, limit_val_batches=2)
    fitting.fit(task, datamodule=data)
    assert fitting.callback_metrics["val/loss"] < first - 0.5


def test_the_loss_is_a_scalar_that_gives_every_trainable_weight_a_gradient():
    task, batch = classifier(), batch_of(8)
    loss = task.loss(task(batch), batch)
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()
    learning = [weight for weight in task.parameters() if weight.requires_grad]
    assert learning and all(weight.grad is not None for weight in learning)


def test_a_frozen_backbone_leaves_only_the_head_to_train():
    task = classifier(freeze_backbone=True)
    learning = {name for name, weight in task.named_parameters() if weight.requires_grad}
    assert learning == {"network.head.weight", "network.head.bias"}


def test_lora_trains_little_starts_as_the_network_was_and_is_merged_for_the_service():
    plain = classifier().eval()
    task, batch = classifier(lora_rank=4), batch_of(8)
    learning = [name for name, weight in task.named_parameters() if weight.requires_grad]
    assert any("lora" in name for name in learning) and "network.head.weight" in learning
    assert not any("base_layer" in name or "embedding" in name for name in learning)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.5)
    task.loss(task(batch), batch).backward()
    optimizer.step()
    exported = task.eval().for_export()
    assert exported.network.state_dict().keys() == plain.network.state_dict().keys()
    torch.testing.assert_close(exported(batch), task(batch), rtol=0, atol=1e-5)
    assert any("lora" in name for name, _ in task.named_parameters())  # the task itself trains on


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_file_of_weights_is_loaded_and_a_head_for_other_classes_is_new(tmp_path, lora_rank):
    file, saved = tmp_path / "weights.pth", classifier(num_classes=5)
    torch.save(saved.network.state_dict(), file)
    task = classifier(pretrained=str(file), lora_rank=lora_rank)
    task.trainer = trainer(max_epochs=1)
    assert task.initialize() == "pretrained: weights of weights.pth, except for a new head (head)"
    network = task.for_export().network
    torch.testing.assert_close(
        network.embedding.tokens.weight, saved.network.embedding.tokens.weight
    )
    query = saved.network.blocks[0].attention.queries_keys_values.weight
    torch.testing.assert_close(network.blocks[0].attention.queries_keys_values.weight, query)
    assert network.head.weight.shape[0] == 3


def test_the_weights_of_a_network_of_this_project_need_no_file():
    task = classifier(pretrained=True)
    assert task.initialize() is None


def test_the_first_metric_of_the_data_selects_the_best_weights():
    assert classifier(metrics=["matthews", "f1"]).best == Best("val/matthews", "max")
    assert classifier().best == TextClassifier.best
    assert classifier(objective="numbers", metrics=["pearson"]).best.metric == "val/pearson"
    with pytest.raises(UserError, match=r"metrics has 'pearson'"):
        classifier(metrics=["pearson"])


def test_metrics_are_computed_over_all_rows_of_a_split():
    predictions, targets = (
        torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]),
        torch.tensor([0, 1, 1]),
    )
    task = classifier(num_classes=2, metrics=["accuracy", "f1"])
    scores = task.scores(predictions, targets)
    assert scores == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})
    assert classifier().scores(predictions, targets) == {}


def test_the_learning_rate_rises_then_falls_linearly():
    task = classifier(learning_rate=0.1, warmup=0.2)
    rates = []
    task.trainer = type("Ten", (), {"estimated_stepping_batches": 10})()
    found = task.configure_optimizers()
    for _ in range(10):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    falling = [0.1 * (1 - (step + 0.5 - 2) / 8) for step in range(2, 10)]
    assert rates == pytest.approx([0.025, 0.075, *falling])


@pytest.mark.parametrize("objective", ["classes", "numbers", "masked"])
def test_outputs_of_another_shape_are_named(objective):
    task, batch = classifier(objective=objective), batch_of(2)
    outputs = task(batch)
    assert task.check(outputs, batch) is None
    said = task.check(outputs[..., :0], batch)
    assert said.startswith(f"returns {(*outputs.shape[:-1], 0)}; expected {tuple(outputs.shape)}")


def test_a_run_keeps_no_file_of_a_network_that_is_this_project_s_own():
    assert classifier().artifacts() == dict[str, Path]()
