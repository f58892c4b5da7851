"""Show training rows as the network sees them, before anything is trained.

They are the first of the first epoch, from the loader and the augmentation of training, with the
recipe's seed. Nothing but the data is built. Other flags are those of fit.
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..artifacts import artifacts_of
from ..cli.plain_values import make_plain
from ..cli.project import Project, default_batch_size
from ..cli.training import AUTO, Training
from ..contract import count
from ..data.module import Data
from ..data.rows import joined
from ..data.streaming import StreamingLoader
from ..errors import UserError
from ..paths import project_root, shown
from ..run.interruption import Interruption
from .bench import find_config

ROWS = 32
PICTURE = "look.png"


class Settings(Training):
    """The command line of fit, of which only the data are built."""

    def before_instantiate_classes(self) -> None:
        make_plain(self.config["fit"])
        self.at_end.enter_context(artifacts_of(None))

    def instantiate_classes(self) -> None:
        config = self.config["fit"]
        settings = config.data.as_dict()
        if settings["batch_size"] == AUTO:
            settings["batch_size"] = default_batch_size(self.project.data_class)
        self.data = self.project.data_class(**settings)
        if self.data.flags.seed is None:
            self.data.flags = replace(self.data.flags, seed=config.seed_everything)
        if (rows := count(self.data.splits.train)) < self.data.batch_size:  # too few to train on
            self.data.batch_size = rows
            self.data.flags = replace(self.data.flags, global_batch_size=None)
        self.subcommand = None  # run nothing


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    if project.look is None:
        raise UserError("This project can't show rows. Pass look= to main() in __main__.py.")
    root, interruption = project_root(), Interruption()
    arguments = ["fit", "--config", str(find_config(options.config)), *flags]
    with interruption.listening(), ExitStack() as at_end:
        data = Settings(project, arguments, root, interruption, at_end).data
        found = project.load(project.look)(first_rows(data, ROWS), data)
    if isinstance(found, str):
        print(found, flush=True)
        return 0
    out = options.out or root / "runs" / PICTURE
    out.parent.mkdir(parents=True, exist_ok=True)
    found.savefig(out, dpi=110)
    shown_rows = min(ROWS, count(data.splits.train))
    print(f"{shown_rows} training {data.facts().unit}: {shown(out.absolute())}", flush=True)
    return 0


def first_rows(data: Data, most: int) -> Any:
    """Return the first training rows of a run as one batch on the CPU, at most `most`."""
    loader: Any = data.train_dataloader()
    parts: list[Any] = []
    try:
        for batch in loader:
            parts.append(batch)
            if sum(len(part.row) for part in parts) >= most:
                break
    finally:
        if isinstance(loader, StreamingLoader):
            loader.end()
    columns = zip(*parts, strict=True)
    return parts[0]._make(None if c[0] is None else joined(c)[:most] for c in columns)
