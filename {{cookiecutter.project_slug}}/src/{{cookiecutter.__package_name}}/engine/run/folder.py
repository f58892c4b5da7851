"""The folder of a run, runs/<recipe>/<time>/. It is chosen before processes start to train."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..paths import shown
from ..ranks import is_rank_zero
from .runs import is_trial, read_record, runs_in

RUN_FOLDER_VARIABLE = "RUN_FOLDER"  # the launcher sets it for its processes
UNLISTED_VARIABLE = "RUN_UNLISTED"  # set for runs of a measurement: `latest` never means them


def recipe_name(file: Path) -> str:
    """Return a recipe's name: the file's stem, or for a file of a run the run's recipe."""
    in_run = (file.parent / "run.json").is_file()
    return file.absolute().parent.parent.name if in_run else file.stem


def new_run_folder(root: Path, recipe: str) -> Path:
    """Create and return a new run's folder: the same one for all processes of a launch.

    A folder outside of runs/ gets a link there, by which `latest` finds it.

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
            f"The run's folder {folder} can't be created: {error.strerror}.{_other_owner(folder)}"
            f" Set the variable {RUN_FOLDER_VARIABLE} to another folder."
        ) from error
    if given and is_rank_zero() and not os.environ.get(UNLISTED_VARIABLE):
        with suppress(OSError):  # runs/ may be read-only
            _link(folder.resolve(), (root / "runs").resolve(), recipe)
    return folder


def _other_owner(folder: Path) -> str:
    """Return a sentence on who owns the closest existing folder, if it is another user."""
    above = next(parent for parent in folder.absolute().parents if parent.is_dir())
    owner, user = above.stat().st_uid, os.getuid()
    if owner == user:
        return ""
    return (
        f" {above} belongs to user {owner}, and this is user {user}. Start a container as user"
        f" {owner} (docker run --user {owner}; for docker compose: export USER_ID={owner})."
    )


def _link(folder: Path, runs: Path, recipe: str) -> None:
    """Link a folder outside of runs/ into runs/<recipe>/, unless it is linked there."""
    if folder.is_relative_to(runs):
        return
    here = runs / recipe
    here.mkdir(parents=True, exist_ok=True)
    names = [folder.name, *(f"{folder.name}-{i}" for i in range(2, 100))]
    for link in (here / name for name in names):
        if link.is_symlink() and (link.resolve() == folder or not link.exists()):
            link.unlink()  # the same, or a link to a folder that is gone
        if not link.exists():
            link.symlink_to(folder)
            return


def find_run(root: Path, name: str, recipe: str | None = None) -> Path:
    """Return the folder of a run.

    'latest' is the run in $RUN_FOLDER, or else the newest run that has a checkpoint; it is neither
    a trial (fast_dev_run) nor a run whose record is damaged. Other names are folders, or what was
    given as --name: then the newest run of this name.

    Raises UserError if there is none.
    """
    if name != "latest":
        for folder in (Path(name), root / name, root / "runs" / name):
            if (folder / "run.json").is_file():
                return folder.resolve()
        named = (run for run in runs_in(root) if run.record.get("name") == name)
        if (run := next(named, None)) is not None:
            return run.folder.resolve()
        raise UserError(
            f"'{name}' is not a run: no folder with a run.json, and no run has this name. List all"
            " runs with: make runs"
        )
    given = os.environ.get(RUN_FOLDER_VARIABLE)
    if given and any(_usable([Path(given)], recipe)):
        return Path(given).resolve()
    folders = (path.parent for path in root.glob("runs/*/*/run.json"))
    found = dict(_usable(folders, recipe))
    if not found:
        of = f" of the recipe '{recipe}'" if recipe else ""
        also = f" or in {RUN_FOLDER_VARIABLE} ({given})" if given else ""
        raise UserError(
            f"No run{of} in {root / 'runs'}{also} has a checkpoint. Start one: make train"
        )
    return max(found, key=lambda folder: found[folder]["started"])


def _usable(folders: Any, recipe: str | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the runs with a checkpoint that are no trials, and their records; name damaged ones."""
    for folder in folders:
        if not any(folder.glob("checkpoints/*.ckpt")):
            continue
        try:
            record = read_record(folder / "run.json")
            if not isinstance(record.get("started"), str):
                raise UserError(f"{folder / 'run.json'} does not say when the run started.")
        except (UserError, OSError) as error:
            print(f"note: {shown(folder)} is passed over: {error}", file=sys.stderr)
            continue
        if not is_trial(record.get("config")) and recipe in (
            None,
            record.get("recipe"),
            folder.parent.name,
        ):
            yield folder, record
