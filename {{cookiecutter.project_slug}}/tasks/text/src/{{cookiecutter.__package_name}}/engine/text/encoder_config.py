"""The configuration of an encoder of transformers, adapted to the data.

A run keeps it among its artifacts: one that resumes, is evaluated or served needs no hub.
"""

import difflib
import json
from pathlib import Path
from typing import Any, Literal

from ..artifacts import artifact
from ..errors import UserError
from .hub import CONFIG, files_of, is_path

Objective = Literal["classes", "numbers", "masked"]
KEPT = "network/config.json"  # among the artifacts of a run
LEAST_SHARE = 0.9  # of the embedding's rows that the tokenizer uses: some are left to round up
SUCH_AS = "bert, roberta, distilbert, electra, deberta-v2 or modernbert"


def kept(name: str) -> Any:
    """Return the configuration that the run has kept of the network of this name, or None.

    It is adapted to the data already. Only a run that resumes, is evaluated or served has one.
    """
    file = artifact(KEPT)
    config = _parsed(file, name) if file else None
    return config if config is not None and config.name_or_path == name else None


def config_of(name: str) -> Any:
    """Return the configuration of an encoder by name, as transformers' PreTrainedConfig.

    The name is a model type of transformers such as bert, which gets the defaults of transformers,
    a folder, or a name on the hub. Raises UserError if there is none, or it is no encoder.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = AutoConfig.for_model(name) if is_model_type(name) else _read(name)
    kind = config.model_type
    if config.is_encoder_decoder or kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise UserError(
            f"model.network is {name}, whose model type is {kind}: that is not an encoder. Choose"
            f" one of a type such as {SUCH_AS}."
        )
    config._name_or_path = name
    return config


def is_model_type(name: str) -> bool:
    """Return whether the name is a model type of transformers, such as bert."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return name in CONFIG_MAPPING_NAMES


def adapt(
    config: Any,
    outputs: int,
    vocab_size: int,
    padding_id: int,
    objective: Objective,
    dropout: float | None,
    pretrained: bool,
) -> None:
    """Set the number of outputs, the dropout and, without pretrained weights, the vocabulary.

    Raises UserError if there are pretrained weights and they were made for another tokenizer.
    """
    if objective != "masked":
        config.num_labels = outputs
    for key, value in config.to_dict().items():
        if dropout is not None and "dropout" in key and isinstance(value, float | int):
            setattr(config, key, dropout)
    is_type = is_model_type(config.name_or_path)
    misfit = _misfit(config, vocab_size, padding_id)
    if misfit and pretrained and not is_type:
        raise UserError(
            f"data.tokenizer does not fit model.network: it {misfit}. Set --data.tokenizer"
            f" {config.name_or_path}"
        )
    if misfit or is_type:
        _set_vocabulary(config, vocab_size, padding_id)


def as_file(config: Any) -> bytes:
    """Return the content of the file that a run keeps."""
    return (config.to_json_string(use_diff=False).strip() + "\n").encode()


def _read(name: str) -> Any:
    """Return the configuration in a folder or on the hub."""
    try:
        folder = files_of(name, CONFIG)
    except UserError as error:
        raise UserError(f"{error}{_close_types(name)}") from error
    file = folder / CONFIG[0]
    if not file.is_file():
        where = folder if is_path(name) else name
        raise UserError(
            f"model.network is {name}, but {where} has no {CONFIG[0]}: it is not a model of"
            " transformers. Choose another."
        )
    return _parsed(file, name)


def _close_types(name: str) -> str:
    """Return a sentence on the model types that are spelled like a name, if there are any."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    close = difflib.get_close_matches(name, MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return f" Model types spelled like it: {', '.join(close)}." if close else ""


def _parsed(file: Path, name: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        kind = content["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model.network is {name}, whose {file} is not a configuration of transformers"
            f" ({type(error).__name__}: {error}). Copy or download it again."
        ) from None
    try:
        return CONFIG_MAPPING[kind].from_dict(content)
    except KeyError:
        raise UserError(
            f"model.network is {name}, whose model type {kind} is unknown to this version of"
            f" transformers; code from a hub is never run. Choose a type such as {SUCH_AS}."
        ) from None


def _misfit(config: Any, vocab_size: int, padding_id: int) -> str | None:
    """Return why a configuration is not made for the tokenizer of the data, or None if it is."""
    name, rows, pad = config.name_or_path, config.vocab_size, config.pad_token_id
    if not LEAST_SHARE * rows <= vocab_size <= rows:
        return f"has {vocab_size:,} tokens, and the weights of {name} have {rows:,}"
    if pad is not None and pad != padding_id:
        return f"has the id {padding_id} for padding, and the weights of {name} have {pad}"
    return None


def _set_vocabulary(config: Any, vocab_size: int, padding_id: int) -> None:
    config.vocab_size, config.pad_token_id = vocab_size, padding_id
    for key in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        if (getattr(config, key, None) or 0) >= vocab_size:
            setattr(config, key, None)
