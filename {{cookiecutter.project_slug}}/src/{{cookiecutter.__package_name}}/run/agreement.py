"""When the processes of a run save or end: decided together, without waiting at each step."""

import time

import lightning as L
import torch

SECONDS_BETWEEN = 0.5


class Agreement:
    """Asks all processes about twice a second, after as many calls as the first makes in that time.

    Their clocks differ, and a signal may come to one of them alone; but all call it equally often.
    """

    def __init__(self) -> None:
        self.calls, self.wait_for, self.reached_at = 0, 1, 0.0

    def reach(self, trainer: L.Trainer, signal: int, save: bool) -> tuple[int, bool]:
        """Return the signal (0 for none) that anyone has heard, and whether the first would save.

        Between two agreements that is neither.
        """
        if trainer.world_size == 1:
            return signal, save
        self.calls += 1
        if self.calls < self.wait_for:
            return 0, False
        now = time.monotonic()
        rate = self.calls / max(now - self.reached_at, 1e-3)
        calls = min(max(round(rate * SECONDS_BETWEEN), 1), 10_000)
        wishes = [signal, save, calls] if trainer.is_global_zero else [signal, 0, 0]
        agreed = torch.tensor(wishes, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        signal, due, self.wait_for = agreed.tolist()
        self.calls, self.reached_at = 0, now
        return signal, bool(due)
