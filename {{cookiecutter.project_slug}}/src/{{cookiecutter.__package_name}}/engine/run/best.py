"""The best validation of a run so far, and how many validations ago it was."""

import math
from typing import Any


class BestSoFar:
    """The best score; a run is out of patience after `patience` validations without a better one.

    A checkpoint keeps it, so a run that resumes ends where it would have ended.
    """

    score: float | None = None  # None before the first validation that is a number
    epoch = 0
    waited = 0  # validations since then

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience

    def take(self, score: float, mode: str, epoch: int) -> bool:
        """Return whether a validation's score is the best so far, and remember it if it is."""
        if self.score is None:
            is_better = not math.isnan(score)
        else:
            is_better = score > self.score if mode == "max" else score < self.score
        if is_better:
            self.score, self.epoch, self.waited = score, epoch, 0
        else:
            self.waited += 1
        return is_better

    @property
    def out_of_patience(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def reason(self, metric: str) -> str:
        """Return why a run that is out of patience ends. Its epochs count from 1, as in the bar."""
        since = "" if self.score is None else f" since epoch {self.epoch + 1} ({self.score:.6g})"
        return f"--patience {self.patience}: no better {metric}{since}"

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.score, "best_epoch": self.epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; one of an older version has only the score."""
        self.score = state["best_score"]
        self.epoch, self.waited = state.get("best_epoch", 0), state.get("waited", 0)
