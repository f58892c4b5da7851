"""The loss of one label a row, with label smoothing, focal loss and weights of classes.

Shapes: n rows, C classes. A mixed row has a second label in `others`, int64 (n,), and in `shares`,
(n,), the share of its first label.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import UserError, hint

ClassWeights = Literal["balanced"] | dict[str, float] | None

TINY = 1e-6  # of a probability or a sum of weights: neither divides nor has a root at 0

FEW = 8  # classes that a message names


def check_smoothing(smoothing: float) -> None:
    """Raise UserError if the share of label smoothing is none."""
    if not 0 <= smoothing < 1:
        raise UserError(
            f"model.label_smoothing is {smoothing}; expected a share, at least 0 and below 1."
        )


class LabelLoss(nn.Module):
    """The mean cross entropy; each row counts as much as the weight of its label.

    Args:
        smoothing: share of the target that is spread over all classes.
        gamma: of the focal loss, which multiplies a row's loss by (1 - p) ** gamma, where p is the
            probability of its label (Lin et al., "Focal Loss for Dense Object Detection", 2017).
        weights: float32 (C,), or None. They move with the task, and are not saved with it.

    Raises UserError for a smoothing or a gamma that is not possible.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float, gamma: float, weights: Tensor | None) -> None:
        super().__init__()
        check_smoothing(smoothing)
        if not gamma >= 0:
            raise UserError(f"model.focal_gamma is {gamma}; it must be at least 0.")
        self.smoothing, self.gamma = smoothing, gamma
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        others: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, of logits (n, C) and labels int64 (n,)."""
        if others is not None and shares is not None:
            losses = shares * self._losses(logits, labels)
            losses = losses + (1 - shares) * self._losses(logits, others)
        elif self.weights is None and not self.gamma:
            return cross_entropy(logits, labels, label_smoothing=self.smoothing)
        else:
            losses = self._losses(logits, labels)
        weight = self.weight(labels, others, shares)
        return losses.mean() if weight is None else losses.sum() / weight.clamp(min=TINY)

    def weight(
        self, labels: Tensor, others: Tensor | None = None, shares: Tensor | None = None
    ) -> Tensor | None:
        """Return what the loss is a mean over: the sum of the rows' weights, or None for rows."""
        if self.weights is None:
            return None
        weights = self.weights[labels]
        if others is not None and shares is not None:
            weights = shares * weights + (1 - shares) * self.weights[others]
        return weights.sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each row's loss times the weight of its label, (n,)."""
        losses = cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")
        if self.gamma:
            probability = (-cross_entropy(logits, labels, reduction="none")).exp()
            losses = losses * (1 - probability).clamp(min=TINY) ** self.gamma
        return losses if self.weights is None else losses * self.weights[labels]


def weights_of_classes(asked: ClassWeights, counts: Mapping[str, int] | None) -> Tensor | None:
    """Return a weight for each class, float32 (C,), or None if they are not asked for.

    Args:
        asked: balanced gives each class of the training data the same sum of weights, and rows a
            mean weight of 1. A mapping has the weights of some classes; the others have 1.
        counts: the number of training rows of each class, by its name.

    Raises UserError for the name of no class, or a weight that is no positive number or 0.
    """
    if asked is None:
        return None
    if counts is None:
        raise UserError(
            "model.class_weights is set, but the data have no class_counts: the weights are for"
            " classification. Remove the setting."
        )
    if asked == "balanced":
        rows = torch.tensor(list(counts.values()), dtype=torch.float64)
        weights = rows.sum() / (rows.count_nonzero() * rows.clamp(min=1))
        return weights.where(rows > 0, 0).float()
    assert not isinstance(asked, str)
    chosen = {str(name): weight for name, weight in asked.items()}  # YAML reads 3 as a number
    for name, weight in chosen.items():
        if name not in counts:
            raise UserError(
                f"model.class_weights has '{name}', which is not a class of the data."
                f"{hint(name, counts)} The {len(counts)} classes: {', '.join(list(counts)[:FEW])}"
                f"{', …' if len(counts) > FEW else ''}."
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(
                f"model.class_weights has {weight} for '{name}'; it must be at least 0."
            )
    return torch.tensor([float(chosen.get(name, 1)) for name in counts])
