"""The task: classify images. The engine runs it; engine/contract.py describes its members."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from .engine import Best, Task, UserError, build_optimizer, build_schedule, freeze
from .engine.images.batch import ImageBatch
from .engine.images.check import check_logits
from .engine.images.mirrored import with_mirrored
from .engine.images.normalization import normalize_by
from .engine.images.torchvision_networks import load_pretrained
from .engine.model.class_totals import class_totals
from .engine.model.label_loss import ClassWeights, LabelLoss, weights_of_classes
from .engine.model.objectives import Labels, Numbers, ObjectiveName, other_objective
from .engine.model.optimizers import OptimizerName, ScheduleName
from .networks import Network, build_network

IGNORED = -100  # cross_entropy counts nothing for this label


class ImageClassifier(Task):
    """Train a network to classify images, to find their labels, or to estimate a number.

    Args:
        network: a name in networks.py, or the name of a torchvision classification network.
        num_classes: number of classes; the command line takes it from the data.
        num_channels: number of channels of the images, taken from the data too.
        class_counts: number of training images of each class by its name, taken from the data too.
        objective: classes, labels or numbers: what the data have for an image; taken from them too.
        small_images: use the network's stem for images of at most about 32 by 32 pixels.
        pretrained: true for torchvision's weights, or a file: a state dict or a run's checkpoint.
            Read when a run starts, never when it resumes.
        freeze_backbone: train only the head; the rest stays unchanged, in eval mode.
        optimizer: sgd (with Nesterov momentum) or adamw.
        learning_rate: the highest learning rate of the run, for the global batch.
        weight_decay: for weights only, not for biases and normalization.
        momentum: of sgd.
        schedule: one_cycle, cosine or constant, each after the warm-up.
        warmup: share of the steps in which the learning rate rises from nothing to its highest.
        test_flip: in validation, test and prediction, take the mean of the probabilities of an
            image and its mirror image.
        label_smoothing: share of the target that is spread over all classes.
        focal_gamma: how much less an image counts that is classified well; 0 is off, 2 is usual.
        class_weights: balanced counts all classes alike; a mapping of classes to numbers says how
            much the images of each count, 1 for others.
    """

    network: Network
    best = Best("val/accuracy", "max", ".2%")
    inputs = ("images",)
    may_change = frozenset({"pretrained", "class_counts"})  # a resume compares the data instead

    def __init__(
        self,
        network: str = "small_cnn",
        num_classes: int | None = None,
        num_channels: int = 3,
        class_counts: dict[str, int] | None = None,
        objective: ObjectiveName = "classes",
        small_images: bool = False,
        pretrained: bool | str = False,
        freeze_backbone: bool = False,
        optimizer: OptimizerName = "sgd",
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        momentum: float = 0.9,
        schedule: ScheduleName = "one_cycle",
        warmup: float = 0.2,
        test_flip: bool = False,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_classes is None:
            raise UserError("model.num_classes is not set, and there are no data to take it from.")
        self.network = build_network(network, num_classes, small_images, num_channels)
        weights = weights_of_classes(class_weights, class_counts)
        other = other_objective(objective, self.hparams)  # None for classes
        self.label_loss = other or LabelLoss(label_smoothing, focal_gamma, weights)
        if other is not None:
            self.best = other.best
        if freeze_backbone:
            freeze(self.network, outputs=num_classes)

    def forward(self, batch: ImageBatch) -> Tensor:
        """Return logits (n, classes)."""
        if self.hparams["test_flip"] and not self.training:
            return with_mirrored(self.network, batch.images)
        return self.network(batch.images)

    def loss(self, logits: Tensor, batch: ImageBatch) -> Tensor:
        """Return the mean loss of the labels; a mixed image has two, each with its share."""
        return self.label_loss(logits, batch.labels, batch.mixed_labels, batch.mix_weights)

    def loss_weight(self, batch: ImageBatch) -> Tensor | None:
        """Return the sum of the images' weights, if classes have weights."""
        return self.label_loss.weight(batch.labels, batch.mixed_labels, batch.mix_weights)

    def totals(self, logits: Tensor, batch: ImageBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return loss and accuracy as sums and counts, without the rows that fill up a batch."""
        if self.other is not None:
            return self.other.totals(logits, batch.labels, batch.row >= 0)
        real = batch.row >= 0
        labels, n = batch.labels.where(real, IGNORED), real.sum()
        loss = cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
        return {"loss": (loss, n), "accuracy": ((logits.argmax(1) == labels).sum(), n)}

    def predict(self, logits: Tensor) -> Tensor:
        """Return the probability of each class: float32 (n, classes)."""
        if self.other is not None:
            return self.other.predict(logits)
        return logits.float().softmax(1)

    def target(self, batch: ImageBatch) -> Tensor | None:
        return batch.labels

    def eval_totals(self, logits: Tensor, batch: ImageBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return precision, recall and F1, the means over classes, and top5."""
        if self.other is not None:
            return self.other.eval_totals(logits, batch.labels, batch.row >= 0)
        return class_totals(logits, batch.labels.where(batch.row >= 0, IGNORED))

    @property
    def other(self) -> Labels | Numbers | None:
        """What images have instead of a class, if they do."""
        return None if isinstance(self.label_loss, LabelLoss) else self.label_loss

    @property
    def has_scores(self) -> bool:
        return self.other is not None

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the mean average precision of labels, or R² of numbers."""
        return self.other.scores(predictions, targets) if self.other else {}

    def check(self, logits: Any, batch: ImageBatch) -> str | None:
        return check_logits(logits, len(batch.row), self.hparams["num_classes"])

    def initialize(self) -> str | None:
        options, lines = self.hparams, list[str]()
        if options["pretrained"]:
            names = options["network"], options["pretrained"]
            lines.append(f"pretrained: {load_pretrained(self.network.body, *names)}")
        elif options["freeze_backbone"]:
            lines.append("note: model.pretrained is not set: frozen weights stay as they are")
        if options["num_channels"] != 3:
            lines.append(normalize_by(self.network.normalize, self.trainer))
        if isinstance(self.other, Numbers):
            lines.append(self.other.scale.measure(self.trainer))
        return "\n".join(filter(None, lines)) or None

    def configure_optimizers(self) -> Any:
        options = self.hparams
        chosen = ("optimizer", "learning_rate", "weight_decay", "momentum")
        optimizer = build_optimizer(self.network, *(options[key] for key in chosen))
        steps = self.trainer.estimated_stepping_batches
        schedule = build_schedule(optimizer, options["schedule"], options["warmup"], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
