"""Short messages in place of torch.compile's logs, and the cache of compiled code.

Each line of code is reported once, with the reason and a hint from torch's log. To see the log
itself, a page or two for each line: TORCH_LOGS=graph_breaks,recompiles.
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

# The end of a log's name: what its messages mean, and a suggestion if they have none.
KINDS = {
    "__graph_breaks": (
        "Graph break (the compiled network is split)",
        "compute it outside of the network",
    ),
    "__recompiles": (
        "Recompilation (after 8, the network runs uncompiled)",
        "in forward, change tensors only, and keep their shapes and types",
    ),
    "__cudagraphs": (
        "No CUDA graphs (the network runs without them)",
        "keep every tensor on the GPU, and change no tensor from outside in place",
    ),
}
# In a message: the reason (of a recompilation, why the newest version does not fit) and a hint.
REASON = re.compile(r"(?:Explanation: |\d+/\d+: (?!GLOBAL_STATE)|due to )(.+?) *(?:  #|$)", re.M)
HINT = re.compile(r"(?:Hint: (?!This graph|It may be|Please)|HINT: .*, or )(.+?)\)?$", re.M)
PLACE = re.compile(r'(?:File "| in )(/.+?)(?:", line |:)(\d+)')


def keep_cache(cpu: str) -> None:
    """Keep compiled code in the user's cache folder, in one folder per CPU model.

    torch's own keys don't include the CPU. A TORCHINDUCTOR_CACHE_DIR that the user has set is kept;
    torch's default, which importing torch sets, is replaced.
    """
    default = str(Path(tempfile.gettempdir()) / "torchinductor_")  # then the user's name
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR", default).startswith(default):
        return
    folder = cache_folder() / "torchinductor" / re.sub(r"\W+", "-", cpu)
    with suppress(OSError):  # the home can't be written to: torch's default
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


class Compiling(L.Callback):
    """Replaces torch's logs by short messages, but not those of first steps, which compile."""

    def __init__(self) -> None:
        self.loggers: list[logging.Logger] = []
        self.filters = ExitStack()  # of warnings
        self.known: set[tuple[str, int]] = set()  # file and line of reported frames, callers too
        self.warm: set[bool] = set()  # True after a training step, False after a validation step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        keep_cache(this_machine().cpu)

    def on_train_start(self, trainer, pl_module) -> None:
        if pl_module.compile_decision.value in (False, "eager-graph") or "TORCH_LOGS" in os.environ:
            return
        self.prints = is_rank_zero()
        try:
            import torch._inductor.cudagraph_utils  # now, so that all loggers exist

            torch._logging.set_logs(graph_breaks=True, recompiles=True)
        except (ImportError, AttributeError, ValueError):  # another torch: its logs don't change
            return
        self.filters.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Dynamo does not know how to trace")  # reported here, as
        also = ("torch._dynamo.convert_frame", "torch._dynamo.variables.tensor")  # by these loggers
        names = [name for name in logging.root.manager.loggerDict if name.endswith(tuple(KINDS))]
        self.loggers = [logging.getLogger(name) for name in (*names, *also)]
        for logger in self.loggers:
            logger.addFilter(self._report)

    def on_train_batch_end(self, *_) -> None:
        self.warm.add(True)

    def on_validation_batch_end(self, *_) -> None:
        self.warm.add(False)

    def on_train_end(self, trainer, pl_module, exception=None) -> None:
        while self.loggers:
            self.loggers.pop().removeFilter(self._report)
            torch._logging.set_logs()  # the default
        self.filters.close()

    on_exception = on_train_end

    def _report(self, record: logging.LogRecord) -> bool:
        """Print a short message for a log record if its place is new; drop the record itself."""
        message = record.getMessage()
        kind = next((kind for kind in KINDS if record.name.endswith(kind)), None)
        if kind is None:
            return not ("raph break" in message or (self.known and "hit config." in message))
        if kind == "__recompiles" and torch.is_grad_enabled() not in self.warm:
            return False
        frames = _frames(message)
        if self.prints and frames[-1] not in self.known:
            (file, line), (meaning, suggestion) = frames[-1], KINDS[kind]
            why, hint = REASON.search(message), HINT.search(message)
            tqdm.write(
                f"\n{meaning}: {shown(Path(file))}:{line}"
                f"  {linecache.getline(file, line).strip()}\n"
                f"  why         {why[1] if why else message}\n"
                f"  suggestion  {hint[1] if hint else suggestion}\n"
            )
        self.known.update(frames)  # the callers are split for the same reason
        return False


def _frames(message: str) -> list[tuple[str, int]]:
    """Return file and line of each frame outside of libraries, outermost first.

    The frames of this call come first, then those that a log record names.
    """
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_stack()]
    frames += [(file, int(line)) for file, line in PLACE.findall(message)]
    ours = [frame for frame in frames if not frame[0].startswith((*LIBRARIES, "<", __file__))]
    return ours or frames[-1:]
