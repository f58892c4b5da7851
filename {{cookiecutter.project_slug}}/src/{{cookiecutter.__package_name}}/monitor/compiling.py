"""What torch.compile says of the network, in plain words, and where what it makes is kept.

torch writes a page into its log for a graph break and for a recompile; here each place in the code
is named once. TORCH_LOGS=graph_breaks,recompiles shows torch's own pages instead.
"""

import linecache
import logging
import os
import re
import sysconfig
import tempfile
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import lightning as L
import torch
from tqdm.auto import tqdm

from ..hardware import cache_folder, this_machine
from ..run.folder import shown

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})

# How a log's name ends, and what its pages mean for the run.
KINDS = {
    "__graph_breaks": "The compiled network is cut in two",
    "__recompiles": "The network is compiled again (after 8 times it runs uncompiled)",
    "__cudagraphs": "The network runs without CUDA graphs",
}
# What stands in a page -> the reason, and what helps. The first that is found holds.
REASONS = {
    "builtin operator `print`": "it prints -> show values in a callback",
    r"\.item\(\)|_local_scalar|tolist|Data.dependent op": "it reads a tensor's value, as .item(),"
    " float(), if and numpy do -> leave it a tensor, which spares the wait for the device too",
    "(?i)data.dependent (branching|jump|assert)": "an if, while or assert looks at a tensor's"
    " values -> torch.where(condition, a, b), which computes both",
    "(?i)dynamic shape op|dynamic slicing|one_hot": "how large a result is depends on a tensor's"
    " values -> torch.where, or a product with the mask",
    "Explanation: (?P<told>.+)": "{} -> compute it otherwise, or outside of the network",
    "skipping cudagraphs due to (?P<told>.+)": "{} -> keep every tensor on the GPU, and change none"
    " in place that comes from outside",
    "(?P<told>tensor .+ mismatch.+)": "{} -> bring all tensors to one shape and type",
    r"(len\(|not |in )(?P<told>self\.[\w.]+)": "{} has another length than before -> collect"
    " nothing in forward",
    r"(?P<told>\S+) == ": "{} is a number in Python that changes -> make it a tensor, with"
    " self.register_buffer(name, torch.tensor(0))",
    "(?P<told>.+)": "no longer so: {} -> change nothing in forward but tensors",
}


def keep_cache(cpu: str) -> None:
    """Let what is compiled survive a reboot: in the user's cache folder and not below /tmp.

    Any other TORCHINDUCTOR_CACHE_DIR than torch's own, which it sets when imported, wins. Homes are
    shared between machines and torch's keys don't name the CPU, so each kind of CPU has its own.
    """
    torchs_own = str(Path(tempfile.gettempdir()) / "torchinductor_")  # and the user's name
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR", torchs_own).startswith(torchs_own):
        return
    folder = cache_folder() / "torchinductor" / re.sub(r"\W+", "-", cpu)
    with suppress(OSError):  # no home to write to: torch's own choice
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


class Compiling(L.Callback):
    """Listens to torch's logs while a compiled network trains; only rank 0 speaks.

    The first step with gradients and the first without compile what they need: no news.
    """

    def __init__(self) -> None:
        self.loggers: list[logging.Logger] = []
        self.known: set[tuple[str, int]] = set()  # places that were named, or lead to one
        self.warm: set[bool] = set()  # whether with gradients, once such a step is over

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        keep_cache(this_machine().cpu)

    def on_train_start(self, trainer, pl_module) -> None:
        if pl_module.compiled_with[0] is None or "TORCH_LOGS" in os.environ:
            return
        import torch._inductor.cudagraph_utils  # now, so that all of the logs are there

        self.speaks = trainer.is_global_zero
        torch._logging.set_logs(graph_breaks=True, recompiles=True)
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

    def on_train_end(self, *_) -> None:
        while self.loggers:
            self.loggers.pop().removeFilter(self._hear)
            torch._logging.set_logs()  # as by default

    def on_exception(self, *_) -> None:
        self.on_train_end()

    def _hear(self, record: logging.LogRecord) -> bool:
        """Say what a page means, if it is news, and keep it from the screen."""
        page = record.getMessage()
        kind = next((kind for kind in KINDS if record.name.endswith(kind)), None)
        if kind is None:
            return not ("raph break" in page or (self.known and "hit config." in page))
        if kind == "__recompiles":
            if torch.is_grad_enabled() not in self.warm:
                return False
            page = _newest_guard(page)
        frames = _frames(page)
        if self.speaks and frames[-1] not in self.known:
            file, line = frames[-1]
            why, _, helps = _reason(page).partition(" -> ")
            tqdm.write(
                f"\n{KINDS[kind]}: {shown(Path(file))}:{line}"
                f"  {linecache.getline(file, line).strip()}\n  why         {why}\n"
                f"  what helps  {helps}\n"
            )
        self.known.update(frames)  # the functions around are cut for the same reason
        return False


def _newest_guard(page: str) -> str:
    """Return the function, and why the newest compilation that might have fitted does not."""
    function, *guards = re.split(r"\n\s+- \d+/\d+: ", page)
    place = re.sub(r"(?s).* in (.+):(\d+)\n.*", r'File "\1", line \2', function)
    guard = next((guard for guard in guards if not guard.startswith("GLOBAL_STATE")), page)
    return guard if "File" in guard else f"{guard}\n{place}"


def _frames(page: str) -> list[tuple[str, int]]:
    """Return file and line of each frame outside of libraries, outermost first: live, then told."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_stack()]
    frames += [(file, int(line)) for file, line in re.findall(r'File "(.+?)", line (\d+)', page)]
    ours = [frame for frame in frames if not frame[0].startswith((*LIBRARIES, "<", __file__))]
    return ours or frames[-1:]


def _reason(page: str) -> str:
    for pattern, reason in REASONS.items():
        if found := re.search(pattern, page):
            told = found.groupdict().get("told", "").partition("  #")[0].strip()
            return reason.format(re.sub(r"\._modules\['(\w+)'\]", r".\1", told))
    return page
