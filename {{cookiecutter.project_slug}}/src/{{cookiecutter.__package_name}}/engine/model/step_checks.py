"""Checks of a training step: its loss has a gradient, and so has every weight that learns.

They look at types and flags only, so no GPU is waited for and no result changes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..own_code import place_of, source_of_result

SCALAR = "expected a scalar tensor computed from the network's outputs"
REMOVE = "Remove .detach() and torch.no_grad()."
MOST_NAMED = 10  # weights in a warning


def check_loss(task: Any, loss: Any, terms: dict[str, Tensor], outputs: Any, batch: Any) -> None:
    """Raise UserError if a step can't be trained on what the task's loss() returned.

    That is the loss, or a dict of terms whose sum is the loss.
    """
    if (found := _problem(loss)) is None:
        return
    if isinstance(loss, Tensor) and not loss.requires_grad:
        _check_outputs(task, outputs, batch)
    with torch.enable_grad():
        where = source_of_result(task.loss, outputs, batch)
    found = f"a dict whose sum is {found}" if terms else found
    raise UserError(f"{where} returned {found}; {SCALAR}. {_advice(loss)}")


def check_own_loss(task: Any, loss: Tensor) -> None:
    """Raise UserError if the loss of the task's own training_step() can't be trained on.

    With manual optimization it may have any shape.
    """
    found = _problem(loss)
    if found and (task.automatic_optimization or not loss.requires_grad):
        where = place_of(type(task).training_step)
        raise UserError(f"{where} trains on {found}; {SCALAR}. {_advice(loss)}")


def without_gradient(task: nn.Module) -> list[str] | None:
    """Return the names of the weights that learn and got no gradient in the backward pass.

    Return None if there was no backward pass: then no weight has one.
    """
    learn = [(name, weight) for name, weight in task.named_parameters() if weight.requires_grad]
    names = [name for name, weight in learn if weight.grad is None]
    return names if len(names) < len(learn) else None


def warning_of(names: list[str]) -> str:
    """Return the warning of weights without gradient."""
    more = len(names) - MOST_NAMED
    shown = ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"warning: the loss does not depend on these weights: {shown}."


def _problem(loss: Any) -> str | None:
    """Return what is wrong with a loss, as a phrase, or None."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            return f"a tensor of shape {tuple(loss.shape)}"
        return None if loss.requires_grad else "a tensor without gradient"
    if loss is None:
        return "None"
    if isinstance(loss, dict):
        others = (key for key, term in loss.items() if not isinstance(term, Tensor))
        wrong = next(others, None)
        return "an empty dict" if not loss else f"a dict with {_a(loss[wrong])} as '{wrong}'"
    return _a(loss)


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _advice(loss: Any) -> str:
    if isinstance(loss, Tensor):
        return "Take the mean over the batch." if loss.numel() != 1 else REMOVE
    if isinstance(loss, dict):
        return "A dict must hold such tensors, whose sum is trained."
    return "End the function with: return loss" if loss is None else "Remove .item() and float()."


def _check_outputs(task: Any, outputs: Any, batch: Any) -> None:
    """Raise UserError if a loss has no gradient because the network's outputs have none."""
    if not any(weight.requires_grad for weight in task.parameters()):
        raise UserError(
            "No weight of the network learns: requires_grad is False for all of them. Unfreeze some"
            " with engine.unfreeze, or freeze all but the head."
        )
    if isinstance(outputs, Tensor) and not outputs.requires_grad:
        with torch.enable_grad():
            where = source_of_result(task.forward, batch)
        raise UserError(
            f"{where} returned a tensor without gradient; expected outputs that depend on the"
            f" network's weights. {REMOVE}"
        )
