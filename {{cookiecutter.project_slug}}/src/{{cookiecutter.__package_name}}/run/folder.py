"""Where a run lives: runs/<recipe>/<time>/, chosen once and before any process starts to train."""

import os
from datetime import datetime
from pathlib import Path

from ..errors import UserError

# The launcher hands its choice to the processes it starts in this variable.
RUN_FOLDER_VARIABLE = "RUN_FOLDER"


def project_root() -> Path:
    """Return the project's folder: the one above src/, or else the working directory's."""
    candidates = [Path(__file__).resolve().parents[3], Path.cwd(), *Path.cwd().parents]
    for folder in candidates:
        if (folder / "configs" / "base.yaml").is_file():
            return folder
    raise UserError(
        f"No configs/base.yaml in {Path.cwd()} or above it. Start in the project's folder."
    )


def new_run_folder(root: Path, recipe: str) -> Path:
    """Return the folder of a run that starts now; processes of one launch get the same one."""
    if RUN_FOLDER_VARIABLE in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return root / "runs" / recipe / os.environ["TORCHELASTIC_RUN_ID"]
    start = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = root / "runs" / recipe / (start + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"The run's folder {folder} can't be made: {error.strerror}. Free space there, or"
                " make it writable."
            ) from error
        return folder
    raise UserError(f"More than a thousand runs started in this second under {folder.parent}.")


def find_run(root: Path, name: str, recipe: str | None = None) -> Path:
    """Return the folder of a run: as named, or the newest (of a recipe) if the name is 'latest'.

    Raises:
        UserError: there is no such run.
    """
    if name != "latest":
        for folder in (Path(name), root / name, root / "runs" / name):
            if (folder / "run.json").is_file():
                return folder.resolve()
        raise UserError(f"{name} is no run: it has no run.json. Runs are the folders runs/*/*.")
    records = sorted(root.glob(f"runs/{recipe or '*'}/*/run.json"), key=_started)
    if not records:
        of = f" of the recipe '{recipe}'" if recipe else ""
        raise UserError(f"There is no run{of} yet in {root / 'runs'}. Start one with: make train")
    return records[-1].parent


def shown(path: Path) -> str:
    """Return the path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _started(record: Path) -> float:
    """Return when a run started: an evaluation rewrites its record, but not its configuration."""
    config = record.with_name("config.yaml")
    return (config if config.exists() else record).stat().st_mtime
