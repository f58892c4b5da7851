"""Encoders of transformers: any by name or folder, with a head for the data.

A network is built from its configuration alone; load_weights() reads the weights, when a new run
starts. Nothing in its forward pass waits for the GPU or depends on values: transformers skips a
mask if it finds no padding, and for that waits. Here it gets a mask of four dimensions, which it
takes as it is (transformers 5.24, masking_utils.py).

Importing the code of one encoder takes a second or two, so this file imports transformers only if
one is built.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from . import encoder_config
from .embedding import with_fast_gradients
from .encoder_config import KEPT, Objective
from .encoder_weights import load_into

MULTIPLE = 8  # of the lengths of batches


class Encoder(nn.Module):
    """An encoder of transformers, with its head for classes, numbers or masked tokens.

    Its attention is scaled_dot_product_attention where transformers offers it for this type, which
    it does not for deberta-v2. That type also copies a constant to the GPU, unless it is compiled:
    in a CUDA graph, it has to be.

    Args:
        config: transformers' configuration.
        outputs: the number of outputs: classes, 1 for numbers, or the tokenizer's tokens.
        objective: what the head is for.
    """

    def __init__(self, config: Any, outputs: int, objective: Objective) -> None:
        super().__init__()
        self.outputs, self.objective = outputs, objective
        self.model = _build(config, objective)
        with_fast_gradients(self.model)
        self.positions = _positions(self.model)
        self.has_segments = (getattr(config, "type_vocab_size", 0) or 0) > 1
        self.window = _window(config)
        self.four_dimensions = self.model.config._attn_implementation == "sdpa"

    def forward(self, tokens: Tensor, segments: Tensor | None, mask: Tensor) -> Tensor:
        """Return logits (n, outputs), or (n, length, outputs) for masked tokens.

        `tokens` are integers (n, length), `segments` too or None, `mask` is bool (n, length), true
        for real tokens. Raises UserError if there are more tokens than positions.
        """
        if tokens.shape[1] > self.positions:
            found, name = f"A row has {tokens.shape[1]} tokens", self.model.name_or_path
            raise _too_long(found, name, self.positions)
        inputs: dict[str, Any] = {"input_ids": tokens.long(), "attention_mask": self._mask(mask)}
        if segments is not None and self.has_segments:
            inputs["token_type_ids"] = segments.long()
        return self.model(**inputs).logits[..., : self.outputs]

    def artifacts(self) -> dict[str, bytes]:
        """Return the file that this network can be built from without a hub."""
        return {KEPT: encoder_config.as_file(self.model.config)}

    def _mask(self, mask: Tensor) -> Any:
        """Return the mask as the model takes it; in four dimensions, transformers changes nothing.

        A model with local attention takes two: of all tokens, and of those in the window.
        """
        if not self.four_dimensions:
            return mask
        full = mask[:, None, None, :]
        if self.window is None:
            return full
        place = torch.arange(mask.shape[1], device=mask.device)
        distance = (place[:, None] - place).abs()
        local = full & (distance <= self.window) | (distance == 0)  # no row without a token
        return {"full_attention": full, "sliding_attention": local}


def load_encoder(
    name: str,
    num_outputs: int,
    vocab_size: int,
    objective: Objective = "classes",
    padding_id: int = 0,
    dropout: float | None = None,
    pretrained: bool = True,
) -> Encoder:
    """Return an encoder of transformers with random weights.

    Args:
        name: a folder, a name on the hub such as bert-base-uncased (NAME@REVISION for one state of
            it), or a model type such as bert: transformers' defaults.
        num_outputs: classes, 1 for numbers, or vocab_size for masked tokens.
        vocab_size: the tokens of the data's tokenizer.
        objective: classes, numbers or masked.
        padding_id: the token that fills up rows.
        dropout: of all layers; None for that of the configuration.
        pretrained: whether load_weights() will load the weights of that name, which the tokenizer
            has to fit. A model type has none.

    Raises UserError if there is no such encoder, or it does not fit the data.
    """
    config = encoder_config.kept(name)
    if config is None:
        config = encoder_config.config_of(name)
        options = num_outputs, vocab_size, padding_id, objective, dropout, pretrained
        encoder_config.adapt(config, *options)
    return Encoder(config, num_outputs, objective)


def load_weights(network: nn.Module, name: str, classes: Sequence[str] = ()) -> str:
    """Load the weights of a folder or of a model on the hub into an encoder.

    Args:
        network: an Encoder, or a module that has one.
        name: that of load_encoder(). A model type has no weights: the network keeps its own.
        classes: the names of the data's classes, if the head is for them. A pretrained head for
            the same names is put in their order; one for other names is replaced.

    Returns a line for the record: which weights, which are new, which are not used. Raises
    UserError if they can't be read or do not fit.
    """
    if encoder_config.is_model_type(name):
        return f"no weights, as {name} is a model type of transformers: they are random"
    encoder = encoder_in(network)
    return load_into(encoder.model, name, classes if encoder.objective == "classes" else ())


def check_max_length(network: nn.Module, max_length: int, longest: int = 0) -> None:
    """Raise UserError if a network has fewer positions than a text may have tokens.

    A module of the network has their number as `positions`; one without has no such limit. A source
    of tokens may have a row that is longer than `max_length`: the `longest`.
    """
    for module in network.modules():
        positions = getattr(module, "positions", None)
        if not isinstance(positions, int) or positions >= max(max_length, longest):
            continue
        name = module.model.name_or_path if isinstance(module, Encoder) else "the network"
        if positions < max_length:
            raise _too_long(f"data.max_length is {max_length}", name, positions)
        raise UserError(
            f"The source returned a row of {longest} tokens, and {name} has {positions} positions."
            " Make its rows shorter."
        )


def encoder_in(network: nn.Module) -> Encoder:
    return next(module for module in network.modules() if isinstance(module, Encoder))


def _too_long(found: str, name: str, positions: int) -> UserError:
    fits = positions // MULTIPLE * MULTIPLE
    return UserError(f"{found}, and {name} has {positions} positions. Set --data.max_length {fits}")


@contextmanager
def _without_scipy() -> Iterator[None]:
    """Let transformers import a network's code without scipy: 380 files, half of the time.

    Only its losses of object detection need scipy, but every network imports them.
    """
    from transformers import utils

    known: Any = utils.is_scipy_available
    utils.is_scipy_available = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        utils.is_scipy_available = known


@_without_scipy()
def _build(config: Any, objective: Objective) -> Any:
    """Return the model with its head; UserError if transformers has none for this type.

    Its weights are drawn once: torch's layers would draw them too, for transformers to replace.
    """
    import transformers
    from transformers.initialization import no_init_weights

    kind: Any = transformers.AutoModelForSequenceClassification
    if objective == "masked":
        kind = transformers.AutoModelForMaskedLM
    name = config.name_or_path

    def built(attention: str) -> Any:
        with no_init_weights():
            model = kind.from_config(config, attn_implementation=attention, dtype=torch.float32)
        model.init_weights()
        return model

    try:
        return built("sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise UserError(
                f"model.network is {name}, for which transformers has no {kind.__name__}"
                f" ({str(error).splitlines()[0]}). Choose another."
            ) from None
    return built("eager")


def _positions(model: nn.Module) -> int:
    """Return the most tokens of a row. Some types leave the first positions to padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)


def _window(config: Any) -> int | None:
    """Return the distance in tokens up to which local attention reaches, if a layer has it."""
    local = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return config.sliding_window if local else None
