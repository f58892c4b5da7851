"""What a network can learn of a row instead of its class: several labels, or a number.

Shapes: n rows, C labels. Calling an objective returns the mean loss. As with LabelLoss, a mixed row
has second labels in `others`, and in `shares`, (n,), the share of its own. `real`, bool (n,), is
False for rows that only fill up a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from ..contract import Best
from ..errors import UserError
from .row_scores import average_precisions, r2
from .target_scale import TargetScale

ObjectiveName = Literal["classes", "labels", "numbers"]
Totals = dict[str, tuple[Tensor, Tensor]]

SEPARATOR = ";"  # of several labels in a cell of a table
THRESHOLD = 0.5  # a label is predicted if its probability is above
OF_CLASSES = ("label_smoothing", "focal_gamma", "class_weights", "test_flip")


class _Objective(ABC):
    """The parts that both have in common."""

    best: Best

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, (n,)."""

    def __call__(
        self,
        outputs: Tensor,
        targets: Tensor,
        others: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        losses = self.losses(outputs, targets)
        if others is not None and shares is not None:
            losses = shares * losses + (1 - shares) * self.losses(outputs, others)
        return losses.mean()

    def weight(self, *_: Tensor | None) -> None:
        """Return that the loss is a mean over rows."""
        return None


class Labels(_Objective):
    """Any number of labels for each row: logits (n, C), targets float32 (n, C), 1 or 0."""

    best = Best("val/map", "max")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none")
        return losses.mean(1)

    def totals(self, outputs: Tensor, targets: Tensor, real: Tensor) -> Totals:
        """Return the loss as sum and count over the real rows."""
        return {"loss": ((self.losses(outputs, targets) * real).sum(), real.sum())}

    def eval_totals(self, outputs: Tensor, targets: Tensor, real: Tensor) -> Totals:
        """Return precision, recall and F1 of the labels predicted, each a mean over labels."""
        said, true = self.predict(outputs) > THRESHOLD, targets > 0
        said, true = said & real[:, None], true & real[:, None]
        found, said, true = (each.sum(0) for each in (said & true, said, true))
        return {
            "precision_macro": (found, said),
            "recall_macro": (found, true),
            "f1_macro": (2 * found, said + true),
        }

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label: float32 (n, C)."""
        return outputs.float().sigmoid()

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the mean average precision of the labels that a row has."""
        return {"map": float(average_precisions(predictions, targets).nanmean())}


class Numbers(_Objective, nn.Module):
    """One number for each row: outputs (n, 1), targets float32 (n,).

    The loss is that of scaled numbers; predictions and `mae` have the unit of the targets.
    """

    best = Best("val/loss", "min")  # where the loss is lowest, R² is highest

    def __init__(self) -> None:
        super().__init__()
        self.scale = TargetScale()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs.float().squeeze(1), self.scale(targets), reduction="none")

    def totals(self, outputs: Tensor, targets: Tensor, real: Tensor) -> Totals:
        """Return squared and absolute error as sums and counts over the real rows."""
        error = self.predict(outputs) - targets
        return {
            "loss": ((self.losses(outputs, targets) * real).sum(), real.sum()),
            "mae": ((error.abs() * real).sum(), real.sum()),
        }

    def eval_totals(self, outputs: Tensor, targets: Tensor, real: Tensor) -> Totals:
        return {}

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the number of each row: float32 (n,)."""
        return self.scale.unscaled(outputs.float().squeeze(1))

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Return R², the share of the variance of the targets that is explained."""
        return {"r2": r2(predictions, targets)}


def labels_above(shares: Sequence[float], classes: Sequence[str]) -> list[str]:
    """Return the labels with a probability above THRESHOLD, or with a target of 1."""
    return [name for name, share in zip(classes, shares, strict=True) if share > THRESHOLD]


def joined_labels(shares: Sequence[float], classes: Sequence[str]) -> str:
    """Return those labels as a table of images has them."""
    return SEPARATOR.join(labels_above(shares, classes))


def other_objective(name: ObjectiveName, settings: Mapping[str, Any]) -> Labels | Numbers | None:
    """Return the objective of that name; None for classes.

    Raises UserError if the settings of a task have one that only classes have.
    """
    if name == "classes":
        return None
    for key in OF_CLASSES:
        if settings[key]:
            raise UserError(
                f"model.{key} is {settings[key]}, but the data have {name}: it is for classes."
                " Leave it unset."
            )
    return Labels() if name == "labels" else Numbers()
