"""What a network learns: classes, numbers, or the tokens that were masked. The data choose it.

Shapes: n rows, `length` tokens a row, `outputs` values of the network. A row -1 only fills up the
last batch of an evaluation, so it must not count.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from .engine import Best, UserError
from .engine.model.label_loss import LabelLoss, check_smoothing
from .engine.model.target_scale import TargetScale
from .engine.text.batch import IGNORED, TextBatch

ObjectiveName = Literal["classes", "numbers", "masked"]
Totals = dict[str, tuple[Tensor, Tensor]]


class Classes(nn.Module):
    """One class of several for each row: logits (n, classes), labels int64 (n,)."""

    best = Best("val/accuracy", "max", ".2%")
    per_token = False

    def __init__(self, num_classes: int, label_loss: LabelLoss) -> None:
        super().__init__()
        self.outputs, self.label_loss = num_classes, label_loss

    def loss(self, logits: Tensor, batch: TextBatch) -> Tensor:
        """Return the mean loss of the labels."""
        return self.label_loss(logits, labels_of(batch))

    def loss_weight(self, batch: TextBatch) -> Tensor | None:
        """Return the sum of the rows' weights, if classes have weights."""
        return self.label_loss.weight(labels_of(batch))

    def totals(self, logits: Tensor, batch: TextBatch) -> Totals:
        """Return loss and accuracy as sums and counts over the real rows."""
        real = batch.row >= 0
        labels = labels_of(batch).where(real, IGNORED)
        return summed(logits, labels, real.sum())

    def predict(self, logits: Tensor) -> Tensor:
        """Return the probability of each class: float32 (n, classes)."""
        return logits.float().softmax(1)

    def target(self, batch: TextBatch) -> Tensor | None:
        return batch.labels


class Numbers(nn.Module):
    """One number for each row, such as how similar two texts are: outputs (n, 1), labels (n,).

    The loss is that of scaled numbers; predictions and `mae` have the unit of the labels.
    """

    best = Best("val/loss", "min")
    per_token = False
    outputs = 1

    def __init__(self) -> None:
        super().__init__()
        self.scale = TargetScale()

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """Return the mean squared error of the scaled numbers over the rows."""
        return mse_loss(outputs.squeeze(1), self.scale(labels_of(batch)).to(outputs.dtype))

    def loss_weight(self, batch: TextBatch) -> Tensor | None:
        return None

    def totals(self, outputs: Tensor, batch: TextBatch) -> Totals:
        """Return squared and absolute error as sums and counts over the real rows."""
        real, labels = batch.row >= 0, labels_of(batch)
        losses = mse_loss(outputs.float().squeeze(1), self.scale(labels), reduction="none")
        error = self.predict(outputs) - labels
        return {
            "loss": ((losses * real).sum(), real.sum()),
            "mae": ((error.abs() * real).sum(), real.sum()),
        }

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the number of each row: float32 (n,)."""
        return self.scale.unscaled(outputs.float().squeeze(1))

    def target(self, batch: TextBatch) -> Tensor | None:
        return batch.labels


class MaskedTokens:
    """The tokens that were masked: logits (n, length, vocabulary), targets int64 (n, length).

    A target is IGNORED where the network sees the token (Devlin et al., "BERT", 2019).
    """

    best = Best("val/loss", "min")
    per_token = True

    def __init__(self, vocab_size: int, label_smoothing: float) -> None:
        check_smoothing(label_smoothing)
        self.outputs, self.label_smoothing = vocab_size, label_smoothing

    def loss(self, logits: Tensor, batch: TextBatch) -> Tensor:
        """Return the mean cross entropy over the masked tokens; 0 if there are none."""
        targets, smoothing = targets_of(batch).flatten(), self.label_smoothing
        flat = logits.flatten(0, 1)
        total = cross_entropy(
            flat, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )
        return total / self.loss_weight(batch).clamp(min=1)

    def loss_weight(self, batch: TextBatch) -> Tensor:
        """Return the number of masked tokens: the loss is a mean over them, not over rows."""
        return (targets_of(batch) != IGNORED).sum()

    def totals(self, logits: Tensor, batch: TextBatch) -> Totals:
        """Return loss and accuracy as sums and counts over the masked tokens of real rows."""
        targets = targets_of(batch).where((batch.row >= 0)[:, None], IGNORED)
        count = (targets != IGNORED).sum()
        return summed(logits.flatten(0, 1), targets.flatten(), count)

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most probable token at each place: int64 (n, length)."""
        return logits.argmax(2)

    def target(self, batch: TextBatch) -> Tensor | None:
        return batch.targets


Objective = Classes | Numbers | MaskedTokens


def build_objective(
    name: ObjectiveName,
    num_classes: int,
    vocab_size: int,
    label_smoothing: float,
    focal_gamma: float = 0.0,
    weights: Tensor | None = None,
) -> Objective:
    """Return the objective of that name. `weights` are those of the classes, float32 (classes,)."""
    if name == "classes":
        return Classes(num_classes, LabelLoss(label_smoothing, focal_gamma, weights))
    if focal_gamma or weights is not None:
        raise UserError(
            "model.focal_gamma and model.class_weights are for classes, but the objective is"
            f" {name}. Leave them unset."
        )
    if label_smoothing and name == "numbers":
        raise UserError(
            "model.label_smoothing is for classes and masked tokens, but the labels are numbers."
            " Leave it unset."
        )
    return Numbers() if name == "numbers" else MaskedTokens(vocab_size, label_smoothing)


def best_by(metrics: Sequence[str], otherwise: Best) -> Best:
    """Return the column that selects the best weights: the first of `metrics`, if there are any."""
    if not metrics or f"val/{metrics[0]}" == otherwise.metric:
        return otherwise
    return Best(f"val/{metrics[0]}", "max")


def labels_of(batch: TextBatch) -> Tensor:
    """Return a batch's labels; only requests to the service have none."""
    assert batch.labels is not None
    return batch.labels


def targets_of(batch: TextBatch) -> Tensor:
    """Return a batch's masked tokens; only requests to the service have none."""
    assert batch.targets is not None
    return batch.targets


def summed(logits: Tensor, labels: Tensor, count: Tensor) -> Totals:
    """Return loss and accuracy of logits (m, classes) as sums over the labels, and `count`.

    `labels` are int64 (m,), IGNORED where nothing counts.
    """
    loss = cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    right = (logits.argmax(1) == labels).sum()
    return {"loss": (loss, count), "accuracy": (right, count)}
