"""The folder of a run, runs/<recipe>/<time>/. It is chosen before processes start to train."""

import json
import os
from datetime import datetime
from pathlib import Path

from ..errors import UserError

RUN_FOLDER_VARIABLE = "RUN_FOLDER"  # the launcher sets it for its processes


def recipe_name(file: Path) -> str:
    """Return a recipe's name: the file's stem, or for a file of a run the run's recipe."""
    in_run = (file.parent / "run.json").is_file()
    return file.absolute().parent.parent.name if in_run else file.stem


def new_run_folder(root: Path, recipe: str) -> Path:
    """Create and return a new run's folder: the same one for all processes of a launch.

    Raises UserError if it can't be created, or torchrun has no run id.
    """
    given, run_id = (os.environ.get(name) for name in (RUN_FOLDER_VARIABLE, "TORCHELASTIC_RUN_ID"))
    if run_id == "none" and not given:
        raise UserError("torchrun has no run id. Set --rdzv-id ID: it names the run's folder.")
    folder = root / "runs" / recipe / (run_id or f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if folder.exists() and not run_id:  # another run started in this second
        folder = folder.with_name(f"{folder.name}-{os.getpid()}")
    folder = Path(given) if given else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The run's folder {folder} can't be created: {error.strerror}. Set the variable"
            f" {RUN_FOLDER_VARIABLE} to another folder."
        ) from error
    return folder


def find_run(root: Path, name: str, recipe: str | None = None) -> Path:
    """Return the folder of a run; 'latest' is the newest run that has a checkpoint.

    Raises UserError if there is none.
    """
    if name != "latest":
        for folder in (Path(name), root / name, root / "runs" / name):
            if (folder / "run.json").is_file():
                return folder.resolve()
        raise UserError(
            f"'{name}' is not a run: it has no run.json. Runs are the folders runs/*/*."
        )
    records = root.glob(f"runs/{recipe or '*'}/*/run.json")
    usable = [path for path in records if any(path.parent.glob("checkpoints/*.ckpt"))]
    if not usable:
        of = f" of the recipe '{recipe}'" if recipe else ""
        raise UserError(f"No run{of} in {root / 'runs'} has a checkpoint. Start one: make train")
    return max(usable, key=lambda path: json.loads(path.read_text())["started"]).parent
