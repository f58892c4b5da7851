"""What torch.compile says of the network, in plain words, and where what it makes is kept.

Each place in the code is named once, with what torch's log says of it on a page or two, which
TORCH_LOGS=graph_breaks,recompiles shows instead.
"""

import linecache
import logging
import os
import re
import sysconfig
import tempfile
import traceback
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path

import lightning as L
import torch
from tqdm.auto import tqdm

from ..hardware import this_machine
from ..paths import cache_folder, shown
from ..ranks import is_rank_zero

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})

# How a log's name ends: what its pages mean for the run, and what helps where they do not say.
KINDS = {
    "__graph_breaks": ("The compiled network is cut in two", "compute it outside of the network"),
    "__recompiles": (
        "The network is compiled again (after 8 times it runs uncompiled)",
        "change nothing in forward but tensors, which keep their shape and type",
    ),
    "__cudagraphs": (
        "The network runs without CUDA graphs",
        "keep every tensor on the GPU, and change none in place that comes from outside",
    ),
}
# In a page: the reason (of a recompile, why the newest that might have fitted does not) and a hint.
REASON = re.compile(r"(?:Explanation: |\d+/\d+: (?!GLOBAL_STATE)|due to )(.+?) *(?:  #|$)", re.M)
HINT = re.compile(r"(?:Hint: (?!This graph|It may be|Please)|HINT: .*, or )(.+?)\)?$", re.M)
PLACE = re.compile(r'(?:File "| in )(/.+?)(?:", line |:)(\d+)')


def keep_cache(cpu: str) -> None:
    """Keep what is compiled in the user's cache folder, by the CPU, which torch's keys don't name.

    Any other TORCHINDUCTOR_CACHE_DIR than torch's own, which it sets when imported, wins.
    """
    torchs_own = str(Path(tempfile.gettempdir()) / "torchinductor_")  # and the user's name
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR", torchs_own).startswith(torchs_own):
        return
    folder = cache_folder() / "torchinductor" / re.sub(r"\W+", "-", cpu)
    with suppress(OSError):  # no home to write to: torch's own choice
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


class Compiling(L.Callback):
    """Listens to torch's logs; what a first step compiles is no news."""

    def __init__(self) -> None:
        self.loggers: list[logging.Logger] = []
        self.filters = ExitStack()  # of warnings
        self.known: set[tuple[str, int]] = set()  # places that were named, or lead to one
        self.warm: set[bool] = set()  # whether with gradients, once such a step is over

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        keep_cache(this_machine().cpu)

    def on_train_start(self, trainer, pl_module) -> None:
        if not pl_module.compile_decision.value or "TORCH_LOGS" in os.environ:
            return
        self.speaks = is_rank_zero()
        try:
            import torch._inductor.cudagraph_utils  # now, so that all of the logs are there

            torch._logging.set_logs(graph_breaks=True, recompiles=True)
        except (ImportError, AttributeError, ValueError):  # another torch, whose logs stay as is
            return
        self.filters.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Dynamo does not know how to trace")  # said here too, as
        also = ("torch._dynamo.convert_frame", "torch._dynamo.variables.tensor")  # these do
        names = [name for name in logging.root.manager.loggerDict if name.endswith(tuple(KINDS))]
        self.loggers = [logging.getLogger(name) for name in (*names, *also)]
        for logger in self.loggers:
            logger.addFilter(self._hear)

    def on_train_batch_end(self, *_) -> None:
        self.warm.add(True)

    def on_validation_batch_end(self, *_) -> None:
        self.warm.add(False)

    def on_train_end(self, trainer, pl_module, exception=None) -> None:
        while self.loggers:
            self.loggers.pop().removeFilter(self._hear)
            torch._logging.set_logs()  # as by default
        self.filters.close()

    on_exception = on_train_end

    def _hear(self, record: logging.LogRecord) -> bool:
        """Say what a page means, if it is news, and keep it from the screen."""
        page = record.getMessage()
        kind = next((kind for kind in KINDS if record.name.endswith(kind)), None)
        if kind is None:
            return not ("raph break" in page or (self.known and "hit config." in page))
        if kind == "__recompiles" and torch.is_grad_enabled() not in self.warm:
            return False
        frames = _frames(page)
        if self.speaks and frames[-1] not in self.known:
            (file, line), (meaning, helps) = frames[-1], KINDS[kind]
            why, hint = REASON.search(page), HINT.search(page)
            tqdm.write(
                f"\n{meaning}: {shown(Path(file))}:{line}"
                f"  {linecache.getline(file, line).strip()}\n"
                f"  why         {why[1] if why else page}\n"
                f"  what helps  {hint[1] if hint else helps}\n"
            )
        self.known.update(frames)  # the functions around are cut for the same reason
        return False


def _frames(page: str) -> list[tuple[str, int]]:
    """Return file and line of each frame outside of libraries, outermost first: live, then told."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_stack()]
    frames += [(file, int(line)) for file, line in PLACE.findall(page)]
    ours = [frame for frame in frames if not frame[0].startswith((*LIBRARIES, "<", __file__))]
    return ours or frames[-1:]
