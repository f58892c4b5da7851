"""Loading the pretrained weights of an encoder of transformers, when a new run starts."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..model.freeze import head_of
from ..plurals import plural
from .hub import CONFIG, OLD_WEIGHTS, WEIGHTS, damage_in, files_of, is_path, version_of, weights_in

LORA = (".base_layer.", ".lora_")  # in the names of weights beside which LoRA has added others


def load_into(model: Any, name: str, classes: Sequence[str]) -> str:
    """Copy pretrained weights into a model of transformers; see encoders.load_weights()."""
    folder = folder_with_weights(name)
    found, report = _loaded(model, folder, name)
    weights, own = found.state_dict(), _own_weights(model)
    new = set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}
    head = {key for key in own if not key.startswith(f"{model.base_model_prefix}.")}
    _check_body(own.keys() - head, new, name)
    remarks = list[str]()
    if classes and not head & new:
        theirs = [found_name for _, found_name in sorted(_names_of(folder).items())]
        if sorted(theirs) != sorted(classes):
            new |= head
            remarks.append(f"its head is for {_listed(theirs)}, so the head is new")
        elif theirs != list(classes):
            _reorder(found, [theirs.index(each) for each in classes])
            remarks.append(f"the head's outputs are put in the order {_listed(classes)}")
    elif head & new:
        remarks.append("the head is new")
    with torch.no_grad():
        for key in own.keys() - new:
            own[key].copy_(weights[key])
    remarks += _summary("new, too:", sorted(new - head))
    remarks += _summary("not used:", sorted(report["unexpected_keys"]))
    return "; ".join([f"weights of {name}, {version_of(folder)}", *remarks])


def folder_with_weights(name: str) -> Path:
    """Return a folder with configuration and weights, downloaded if need be; or UserError."""
    folder = files_of(name, [*CONFIG, *WEIGHTS])
    if not weights_in(folder):
        folder = files_of(name, [*CONFIG, *OLD_WEIGHTS])
    if not weights_in(folder):
        where = folder if is_path(name) else name
        raise UserError(
            f"model.network is {name}, but {where} has no weights: expected model.safetensors or"
            " pytorch_model.bin. Add the file, or set --model.pretrained false"
        )
    return folder


def _loaded(model: Any, folder: Path, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a second model with the weights in a folder, and transformers' report on them."""
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            return type(model).from_pretrained(
                folder,
                config=copy.deepcopy(model.config),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
            )
    except Exception as error:  # the formats' readers raise exceptions of many types
        raise UserError(
            f"model.network is {name}, whose weights can't be read"
            f" ({type(error).__name__}: {str(error).strip().splitlines()[0][:120]}):"
            f" {damage_in(folder)}"
        ) from error


def _own_weights(model: Any) -> dict[str, Tensor]:
    """Return a model's weights by the names they have without LoRA."""
    base, added = LORA
    weights = model.state_dict().items()
    return {key.replace(base, "."): value for key, value in weights if added not in key}


def _check_body(body: set[str], new: set[str], name: str) -> None:
    """Raise UserError if the weights are of another architecture."""
    missing = sorted(body & new)
    if len(missing) > len(body) / 2:
        are = plural(len(missing), "is", "are")
        raise UserError(
            f"model.network is {name}, whose weights are of another architecture:"
            f" {len(missing)} of {len(body)} {are} missing, such as {missing[0]}."
        )


def _names_of(folder: Path) -> dict[int, str]:
    """Return the names of a pretrained head's outputs by their index."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True).id2label


def _reorder(model: Any, order: list[int]) -> None:
    """Put the outputs of a head in another order: the new first one is that at order[0]."""
    _, head = head_of(model)
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(weight[order].clone())


def _summary(what: str, keys: Sequence[str]) -> list[str]:
    """Return what is said of some weights: the first, and how many more there are."""
    if not keys:
        return []
    return [f"{what} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")]


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' report and progress bar from the output: the line says what matters."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
