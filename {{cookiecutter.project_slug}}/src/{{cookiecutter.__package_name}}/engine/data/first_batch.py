"""The check of what a project's augment() returns: of the first batch of each loader."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..contract import Uniforms
from ..errors import UserError

Augment = Callable[[Any, Uniforms], Any]


class FirstChecked:
    """A project's augment(), whose first result is checked.

    `check(batch, augmented)` returns what is wrong with it, or None. Raises UserError if it is
    wrong; `name` begins the message.
    """

    def __init__(
        self, augment: Augment, check: Callable[[Any, Any], str | None], name: str
    ) -> None:
        self.augment, self.check, self.name = augment, check, name
        self.checked = False

    def __call__(self, batch: Any, uniforms: Uniforms) -> Any:
        augmented = self.augment(batch, uniforms)
        if not self.checked:
            if wrong := self.check(batch, augmented):
                raise UserError(f"{self.name} {wrong}.")
            self.checked = True
        return augmented


def wrong_with(augmented: Any, batch: Any) -> str | None:
    """Return what is wrong with an augmented batch, or None.

    It has the type and the rows of the batch, and each tensor its dtype and number of axes. A field
    that is None in the batch may be a tensor in the augmented one.
    """
    if not isinstance(augmented, type(batch)):
        return (
            f"returns the type {type(augmented).__name__}; expected {type(batch).__name__}, such as"
            f" batch._replace({batch._fields[0]}=...)"
        )
    for name, part in augmented._asdict().items():
        before = getattr(batch, name, None)
        if part is None and before is None:
            continue
        if not isinstance(part, Tensor):
            return f"returns `{name}` of the type {type(part).__name__}; expected a tensor"
        if part.ndim == 0 or len(part) != len(batch.row):
            return (
                f"returns `{name}` of the shape {tuple(part.shape)}; expected {len(batch.row)} rows"
            )
        if before is not None and (part.dtype, part.ndim) != (before.dtype, before.ndim):
            return (
                f"returns `{name}` as {described(part)}; expected {described(before)}, as in"
                " evaluation, where nothing is augmented"
            )
    return None


def described(part: Tensor) -> str:
    """Return dtype and shape of a tensor, such as "uint8 (100, 3, 8, 8)"."""
    return f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape)}"
