"""Lets all ranks of a run stop at the same point, to save a checkpoint or to end."""

import json
import os
import threading
from typing import Any

from .. import ranks

INTERVAL = 0.1  # seconds between two looks into the store
Wish = tuple[int, bool]  # the number of a signal that was received, or 0, and whether to save
NO_WISH: Wish = (0, False)


class RankConsensus:
    """Makes all ranks act on a wish of one of them at the same point of the training.

    A signal may reach only one process, and clocks differ. All ranks pass the same points: the ends
    of steps and of validation batches. A rank with a wish writes it into torchrun's store. A thread
    on each rank waits for it and answers with the next point that its rank will pass. All act at
    the latest of these points; a rank that reaches its own answer waits until it knows that point.
    Without a wish, no rank waits for another.
    """

    def __init__(self) -> None:
        self.several = ranks.is_launched() and int(os.environ["WORLD_SIZE"]) > 1
        self.changed = threading.Condition()
        self.passed = 0  # points
        self.round = 0  # of wishes
        self.asked = False  # this rank has written a wish for this round
        self.answered: int | None = None  # the point after which this rank waits to be told
        self.agreed: tuple[int, Wish] | None = None  # the point at which all act, and the wish
        self.error: Exception | None = None
        self.listener: threading.Thread | None = None
        self.ended = threading.Event()

    def agree(self, wish: Wish) -> Wish:
        """Pass a point. Return the wish on which all ranks act here, or NO_WISH."""
        if not self.several:
            return wish
        if self.listener is None:
            self.listener = threading.Thread(target=self._listen, daemon=True, name="consensus")
            self.listener.start()
        with self.changed:
            self.passed += 1
            if wish != NO_WISH and not self.asked:
                self.asked = True
                ranks.store().compare_set(f"wish/{self.round}", "", json.dumps(wish))
            if self.answered is None or self.passed < self.answered:
                return NO_WISH
            self.changed.wait_for(lambda: self.agreed or self.error)
            if self.error:
                raise self.error
            point, agreed = self.agreed  # type: ignore[misc]
            if self.passed < point:
                return NO_WISH
            self.round, self.asked, self.answered, self.agreed = self.round + 1, False, None, None
            self.changed.notify_all()
            return agreed

    def close(self) -> None:
        """Answer no more wishes. No rank may pass a point after that."""
        with self.changed:
            self.ended.set()
            self.changed.notify_all()
        if self.listener is not None:
            self.listener.join(2.0)  # at most: the store may be gone

    def _listen(self) -> None:
        """Answer the wishes of all rounds. The store needs a connection for each thread."""
        try:
            store = ranks.store().clone()
            rank, every = int(os.environ["RANK"]), range(int(os.environ["WORLD_SIZE"]))
            while self._is_there(store, wish := f"wish/{self.round}"):
                signal, save = json.loads(store.get(wish))
                with self.changed:
                    self.answered = self.passed + 1
                    store.set(f"answer/{self.round}/{rank}", str(self.answered))
                answers = [f"answer/{self.round}/{other}" for other in every]
                if not all(self._is_there(store, answer) for answer in answers):
                    return
                points = [int(store.get(answer)) for answer in answers]
                with self.changed:
                    self.agreed = max(points), (signal, save)
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: self.agreed is None or self.ended.is_set())
        except Exception as error:  # the store is gone
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def _is_there(self, store: Any, key: str) -> bool:
        """Wait until the store holds this key. Return False if this ends before."""
        while not self.ended.is_set():
            if store.check([key]):
                return True
            self.ended.wait(INTERVAL)
        return False
