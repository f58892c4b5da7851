"""The task: classify texts. The engine runs it; engine/contract.py describes its members."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from .engine import Best, Task, UserError, build_optimizer, build_schedule, freeze
from .engine.model.class_totals import class_totals
from .engine.model.label_loss import ClassWeights, weights_of_classes
from .engine.model.optimizers import OptimizerName
from .engine.text.batch import IGNORED, TextBatch, attention_mask
from .engine.text.check import check_outputs
from .engine.text.layers import decay_layers
from .engine.text.lora import add_lora, merged
from .engine.text.metrics import check_metrics, scores_of
from .engine.text.pretrained import artifacts_of, load_pretrained
from .networks import NETWORKS, build_network
from .objectives import Numbers, ObjectiveName, best_by, build_objective, labels_of

# The engine's name for a learning rate that rises linearly, then falls linearly, is one_cycle.
SCHEDULES: dict[str, Any] = {"linear": "one_cycle", "cosine": "cosine", "constant": "constant"}
MOMENTUM = 0.9  # of sgd


class TextClassifier(Task):
    """Train a network to classify texts, to rate them, or to fill in masked tokens.

    Args:
        network: a name in networks.py, or an encoder of transformers: a name on the hub, such as
            bert-base-uncased, or a folder.
        num_classes: number of classes; the command line takes it and the next five from the data.
        vocab_size: number of different tokens.
        padding_id: the token that fills up shorter rows.
        objective: classes, numbers or masked: see objectives.py.
        class_counts: number of training texts of each class by its name, taken from the data.
        metrics: more metrics, taken from the data: accuracy, f1 or matthews of classes, pearson or
            spearman of numbers. The first selects the best weights.
        pretrained: true for the weights that an encoder of transformers has, or a file: a state
            dict or a run's checkpoint. Read when a run starts, never when it resumes.
        freeze_backbone: train only the head; the rest stays unchanged, in eval mode.
        lora_rank: train the head and, beside each matrix of the blocks, two of this rank (Hu et
            al., "LoRA", 2021); 0 trains all weights.
        lora_alpha: the product of the two is multiplied by lora_alpha / lora_rank.
        optimizer: adamw or sgd (with Nesterov momentum).
        learning_rate: the highest learning rate of the run, for the global batch.
        layer_decay: the learning rate of each block, as a share of that of the next; 1 is off.
        weight_decay: for weights only, not for biases and normalization.
        schedule: linear, cosine or constant, each after the warm-up.
        warmup: share of the steps in which the learning rate rises from nothing to its highest.
        label_smoothing: share of the target that is spread over all classes.
        focal_gamma: gives less weight to texts that are classified well; 0 is off, 2 is usual.
        class_weights: balanced gives all classes the same weight in the loss; a mapping of classes
            to numbers sets the weight of some, and the others have 1.
        dropout: share of the values inside the network that are set to 0 in training; unset: 0.1
            or, for an encoder of transformers, what its configuration says.
    """

    network: nn.Module
    best = Best("val/accuracy", "max", ".2%")
    inputs = ("tokens", "segments", "lengths")
    may_change = frozenset({"pretrained", "class_counts"})  # a resume compares the data instead

    def __init__(
        self,
        network: str = "tiny_encoder",
        num_classes: int | None = None,
        vocab_size: int | None = None,
        padding_id: int = 0,
        objective: ObjectiveName = "classes",
        class_counts: dict[str, int] | None = None,
        metrics: Sequence[str] = (),
        pretrained: bool | str = True,
        freeze_backbone: bool = False,
        lora_rank: int = 0,
        lora_alpha: float = 16.0,
        optimizer: OptimizerName = "adamw",
        learning_rate: float = 1e-3,
        layer_decay: float = 1.0,
        weight_decay: float = 0.01,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.1,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        class_weights: ClassWeights = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_classes is None or vocab_size is None:
            raise UserError(
                "model.num_classes and model.vocab_size are not set, and there are no data to take"
                " them from."
            )
        weights = weights_of_classes(class_weights, class_counts)
        sizes = num_classes, vocab_size
        self.objective = build_objective(objective, *sizes, label_smoothing, focal_gamma, weights)
        self.best = best_by(metrics, self.objective.best)
        check_metrics(metrics, objective)
        outputs = self.objective.outputs
        tokens = vocab_size, padding_id
        self.network = build_network(
            network, outputs, *tokens, objective, dropout, pretrained is True
        )
        if lora_rank and freeze_backbone:
            raise UserError(
                "model.lora_rank trains the blocks, and model.freeze_backbone freezes them: leave"
                " one of them unset."
            )
        if lora_rank:
            add_lora(self.network, lora_rank, lora_alpha)
        if freeze_backbone:
            freeze(self.network, outputs=outputs)

    def forward(self, batch: TextBatch) -> Tensor:
        """Return logits (n, outputs), or (n, length, outputs) if tokens are masked."""
        return self.network(batch.tokens, batch.segments, attention_mask(batch))

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        return self.objective.loss(outputs, batch)

    def loss_weight(self, batch: TextBatch) -> Tensor | None:
        return self.objective.loss_weight(batch)

    def totals(self, outputs: Tensor, batch: TextBatch) -> dict[str, tuple[Tensor, Tensor]]:
        return self.objective.totals(outputs, batch)

    def eval_totals(self, outputs: Tensor, batch: TextBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return precision, recall and F1 of classes, the means over classes, and top5."""
        if self.hparams["objective"] != "classes":
            return {}
        return class_totals(outputs, labels_of(batch).where(batch.row >= 0, IGNORED))

    def predict(self, outputs: Tensor) -> Tensor:
        return self.objective.predict(outputs)

    def target(self, batch: TextBatch) -> Tensor | None:
        return self.objective.target(batch)

    def scores(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the metrics that are no ratio of sums, over all rows of a split."""
        return scores_of(self.hparams["metrics"], predictions, targets)

    def check(self, outputs: Any, batch: TextBatch) -> str | None:
        tokens = batch.tokens.shape if self.objective.per_token else batch.row.shape
        return check_outputs(outputs, (*tokens, self.objective.outputs))

    def initialize(self) -> str | None:
        name, pretrained = self.hparams["network"], self.hparams["pretrained"]
        lines = list[str]()
        if pretrained and not (pretrained is True and name in NETWORKS):
            trainer: Any = self.trainer
            classes = getattr(trainer.datamodule, "classes", ())
            lines.append(f"pretrained: {load_pretrained(self.network, name, pretrained, classes)}")
        elif not pretrained and (self.hparams["freeze_backbone"] or self.hparams["lora_rank"]):
            lines.append("note: model.pretrained is not set: frozen weights stay as they are")
        if isinstance(self.objective, Numbers):
            lines.append(self.objective.scale.measure(self.trainer))
        return "\n".join(filter(None, lines)) or None

    def artifacts(self) -> dict[str, Path | bytes]:
        """Return what an encoder of transformers is built from when a run resumes."""
        return artifacts_of(self.network)

    def for_export(self) -> "TextClassifier":
        """Return a copy whose weights include what LoRA has learned."""
        if not self.hparams["lora_rank"]:
            return self
        exported = deepcopy(self)
        exported.network = merged(exported.network)
        return exported

    def configure_optimizers(self) -> Any:
        options = self.hparams
        rate, weight_decay = options["learning_rate"], options["weight_decay"]
        optimizer = build_optimizer(
            self.network, options["optimizer"], rate, weight_decay, MOMENTUM
        )
        decay_layers(optimizer, self.network, options["layer_decay"])
        steps, name = self.trainer.estimated_stepping_batches, SCHEDULES[options["schedule"]]
        schedule = build_schedule(optimizer, name, options["warmup"], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
