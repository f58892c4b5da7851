"""What the engine's own flags mean: --run, --until, --elastic and --decisions."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..decisions import KEYS, OF_THE_DEVICES, Before, Layout
from ..errors import UserError
from ..paths import shown
from ..ranks import is_rank_zero
from ..run.checkpoint_files import find_checkpoint
from ..run.folder import find_run, new_run_folder, recipe_name
from ..run.record import RunRecord


def recipe_of(config: Any, package: str) -> str:
    """Return the recipe's name: that of the last configuration file, or else the package's."""
    files = config.get("config") or []
    return recipe_name(Path(str(files[-1]))) if files else package


def expand_run(arguments: list[str], root: Path) -> tuple[list[str], Path | None]:
    """Replace `--run FOLDER` by the run's configuration and checkpoint; return its folder too."""
    rest, name = take(arguments, "--run")
    if name is None:
        return rest, None
    run = find_run(root, name)
    fitting, record = rest[:1] == ["fit"], RunRecord(run)
    longer = any(flag.startswith("--trainer.max_") for flag in rest)
    if fitting and not longer and record.content["state"] == "finished":
        raise UserError(
            f"{shown(run)} has finished. Train it for longer with --trainer.max_epochs N"
            " (make resume ARGS=...), or start a new run."
        )
    names = ["last", "previous"] if fitting else ["best", "last", "previous"]
    inserted = [f"--config={record.newest_config()}"]
    if take(rest, "--ckpt_path")[1] is None:
        inserted.append(f"--ckpt_path={find_checkpoint(run, *names)}")
    if not fitting:  # what was asked of the machine that it was trained on
        inserted += [f"--trainer.{key}=auto" for key in ("accelerator", "devices", "strategy")]
        inserted.append("--trainer.precision=null")
    elif "--elastic" in rest:
        inserted.append("--trainer.strategy=auto")
    return [*rest[:1], *inserted, *rest[1:]], run


@dataclass(frozen=True)
class FitFlags:
    """Flags of fit that are no settings: they say how a run goes on, or which one it repeats."""

    until: int | None = None  # the step after which it ends
    elastic: bool = False  # it may resume on other devices
    decisions: Path | None = None  # the run.json whose decisions hold here too


def take_fit_flags(arguments: list[str]) -> tuple[list[str], FitFlags]:
    """Take --until STEP, --elastic and --decisions FILE out; return the rest and what they say."""
    rest, until = take(arguments, "--until")
    if until is not None and not until.isdecimal():
        raise UserError(f"--until is '{until}'; expected the number of a step, such as 500.")
    rest, file = take(rest, "--decisions")
    if file is not None and not Path(file).is_file():
        raise UserError(f"--decisions is '{file}', which is no file; expected a run's run.json.")
    rest, elastic = [word for word in rest if word != "--elastic"], "--elastic" in rest
    if (elastic or until is not None or file is not None) and rest[:1] != ["fit"]:
        raise UserError("--until, --elastic and --decisions are for fit.")
    number = None if until is None else int(until)
    return rest, FitFlags(number, elastic, None if file is None else Path(file))


def decided_before(resumed: Path | None, stage: str, flags: FitFlags) -> Before | None:
    """Return what was decided for the run that is resumed, evaluated or repeated, as far as it
    holds here."""
    record = flags.decisions or (resumed and resumed / "run.json")
    if record is None:
        return None
    content = json.loads(record.read_text())
    if flags.decisions:
        return Before.of(content)
    before = Before.of((content["resumes"] or [content])[-1])
    if stage != "fit":  # where it reads pixels that the GPU has decoded, it still does
        return before.without(KEYS.keys() - {"decoder"})
    return before.without(OF_THE_DEVICES) if flags.elastic else before


def take(arguments: list[str], *flags: str) -> tuple[list[str], str | None]:
    """Return the arguments without a flag, and its value: None without it, "" if none follows."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*flags, dest="value", nargs="?", const="")
    found, rest = parser.parse_known_args(arguments)
    return rest, found.value


def choose_folder(
    stage: str, config: Any, root: Path, resumed: Path | None, package: str, layout: Layout
) -> Path:
    """Return the folder of the run that starts or goes on, or of the one that is evaluated.

    Evaluation without --run takes the run of its checkpoint, or else the recipe's newest and best.
    """
    if stage != "fit" and layout.processes > 1:
        raise UserError(f"{stage} runs on one device: leave out --trainer.devices, and torchrun.")
    if resumed is not None:
        return resumed
    if stage == "fit":
        folder = new_run_folder(root, recipe_of(config, package))
        if is_rank_zero() and (folder / "run.json").exists() and not config.ckpt_path:
            raise UserError(
                f"{shown(folder)} holds a run already: go on with it by --run {shown(folder)}, or"
                " name another RUN_FOLDER (torchrun: another --rdzv-id)."
            )
        return folder
    if config.ckpt_path:
        return find_run(root, str(Path(config.ckpt_path).parent.parent))
    folder = find_run(root, "latest", recipe_of(config, package))
    config.ckpt_path = str(find_checkpoint(folder, "best", "last", "previous"))
    return folder
