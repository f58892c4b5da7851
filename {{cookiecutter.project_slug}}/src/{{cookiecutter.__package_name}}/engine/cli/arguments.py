"""The engine's own flags of training, such as --run, --until, --elastic, --name and --note."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..decisions import DEVICE_DECISIONS, KEYS, Before, Layout
from ..errors import UserError
from ..paths import resolve_path, shown
from ..ranks import is_rank_zero
from ..run.checkpoint_files import find_checkpoint, has_only_best
from ..run.folder import find_run, new_run_folder, recipe_name
from ..run.record import RunRecord, read_record
from ..run.runs import check_not_trained


def recipe_of(config: Any, package: str) -> str:
    """Return the recipe's name: from the last configuration file, or else the package's name."""
    files = config.get("config") or []
    return recipe_name(Path(str(files[-1]))) if files else package


def find_recipes(arguments: list[str]) -> list[str]:
    """Make the path of a recipe absolute that is in the project's folder, not the working one."""
    found, previous = list[str](), ""
    for word in arguments:
        flag, is_joined, value = word.partition("=") if word[:1] == "-" else (previous, "", word)
        if flag in ("--config", "-c") and value and not Path(value).expanduser().exists():
            file = resolve_path(value, must_exist=False)
            if file.is_file():
                word = f"{flag}={file}" if is_joined else str(file)
        found.append(word)
        previous = word
    return found


def expand_run(arguments: list[str], root: Path) -> tuple[list[str], Path | None]:
    """Replace `--run FOLDER` by the run's configuration and checkpoint; also return its folder.

    An evaluation that names no run, recipe or checkpoint gets the newest run.

    Raises UserError if there is no such run, or fit would resume one that has finished or trains.
    """
    rest, name = take(arguments, "--run")
    fitting = rest[:1] == ["fit"]
    named = take(rest, "--config", "--ckpt_path", "--print_config")[1] is not None
    if name is None and (fitting or named):
        return rest, None
    run = find_run(root, name or "latest")
    record = RunRecord(run)
    if fitting and any(flag.startswith("--trainer.fast_dev_run") for flag in rest):
        raise UserError(
            "--trainer.fast_dev_run tries a few batches as a run of its own, and --run would resume"
            " another run with them. Remove one of the two."
        )
    if fitting:
        check_not_trained(run)
    longer = any(flag.startswith(("--trainer.max_", "--patience")) for flag in rest)
    finished = record.content["state"] == "finished" and not has_only_best(run)
    if fitting and finished and not longer:
        ended = record.content.get("reason") or ""
        flag = "--patience" if ended.startswith("--patience") else "--trainer.max_epochs"
        raise UserError(
            f"{shown(run)} has finished. To train longer, set {flag} N (make resume ARGS=...), or"
            " start a new run."
        )
    names = ["last", "previous"] if fitting else ["best", "last", "previous"]
    inserted = [f"--config={record.newest_config()}"]
    if take(rest, "--ckpt_path")[1] is None:
        inserted.append(f"--ckpt_path={find_checkpoint(run, *names)}")
    if not fitting:  # the machine may differ from the one that trained the run
        inserted += [f"--trainer.{key}=auto" for key in ("accelerator", "devices", "strategy")]
        inserted.append("--trainer.precision=null")
    elif "--elastic" in rest:
        inserted.append("--trainer.strategy=auto")
    return [*rest[:1], *inserted, *rest[1:]], run


@dataclass(frozen=True)
class FitFlags:
    """Flags of fit that are not settings: how to resume a run, or which run to repeat."""

    until: int | None = None  # stop after this step
    elastic: bool = False  # allow other devices
    decisions: Path | None = None  # a run.json whose decisions are repeated
    stall_timeout: int = 600  # seconds; see run/heartbeat.py
    allow_nan: bool = False  # train on although the loss is not finite
    name: str | None = None  # of the run, for lists and --run
    note: str | None = None  # what the run is for, for lists


def take_fit_flags(arguments: list[str]) -> tuple[list[str], FitFlags]:
    """Remove the flags of FitFlags; return the rest and the flags' values.

    Raises UserError for a wrong value, or a flag without fit.
    """
    rest, until = take(arguments, "--until")
    if until is not None and not until.isdecimal():
        raise UserError(f"--until is '{until}'; expected a step number, such as 500.")
    rest, stall = take(rest, "--stall-timeout")
    if stall is not None and not stall.isdecimal():
        raise UserError(f"--stall-timeout is '{stall}'; expected seconds, such as 600.")
    rest, file = take(rest, "--decisions")
    if file is not None and not Path(file).is_file():
        raise UserError(
            f"--decisions is '{file}', which does not exist; expected a run's run.json."
        )
    rest, name = take(rest, "--name")
    if name == "latest":
        raise UserError("--name is 'latest', which stands for the newest run. Choose another name.")
    rest, note = take(rest, "--note")
    switches = {name: name in rest for name in ("--elastic", "--allow-nan")}
    rest = [word for word in rest if word not in switches]
    given = [*filter(switches.get, switches), *filter(None, (until, stall, file, name, note))]
    if given and rest[:1] != ["fit"]:
        names = "--until, --elastic, --decisions, --stall-timeout, --allow-nan, --name and --note"
        raise UserError(f"{names} work only with fit.")
    elastic, allow_nan = switches.values()
    record = None if file is None else Path(file)
    flags = FitFlags(
        elastic=elastic,
        decisions=record,
        allow_nan=allow_nan,
        name=name or None,
        note=note or None,
    )
    if until is not None:
        flags = replace(flags, until=int(until))
    if stall is not None:
        flags = replace(flags, stall_timeout=int(stall))
    return rest, flags


def decided_before(resumed: Path | None, stage: str, flags: FitFlags) -> Before | None:
    """Return the earlier decisions that apply to this run: of the run that is resumed, evaluated
    or repeated; None for a new run."""
    record = flags.decisions or (resumed and resumed / "run.json")
    if record is None:
        return None
    content = read_record(record)
    if "config" not in content:
        raise UserError(f"{record} has no 'config'; expected a run's run.json.")
    if flags.decisions:
        return Before.of(content)
    before = Before.of((content["resumes"] or [content])[-1])
    if stage != "fit":  # the GPU's decoder gives other pixels: keep it
        return before.without(KEYS.keys() - {"decoder"})
    return before.without(DEVICE_DECISIONS) if flags.elastic else before


def take(arguments: list[str], *flags: str) -> tuple[list[str], str | None]:
    """Return the arguments without a flag, and its value: None if absent, "" if empty."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*flags, dest="value", nargs="?", const="")
    found, rest = parser.parse_known_args(arguments)
    return rest, found.value


def choose_folder(
    stage: str, config: Any, root: Path, resumed: Path | None, package: str, layout: Layout
) -> Path:
    """Return the folder of the run that is started, resumed or evaluated.

    Without --run, an evaluation uses the run of its checkpoint, or else the recipe's newest run,
    and sets the best checkpoint as `config.ckpt_path`.
    """
    if stage != "fit" and layout.processes > 1:
        raise UserError(f"{stage} runs on one device: remove --trainer.devices or torchrun.")
    if resumed is not None:
        return resumed
    if stage == "fit":
        folder = new_run_folder(root, recipe_of(config, package))
        if is_rank_zero() and (folder / "run.json").exists() and not config.ckpt_path:
            raise UserError(
                f"{shown(folder)} already holds a run. Resume it with --run {shown(folder)}, or"
                " set another RUN_FOLDER (torchrun: another --rdzv-id)."
            )
        return folder
    if config.ckpt_path:
        return find_run(root, str(Path(config.ckpt_path).parent.parent))
    folder = find_run(root, "latest", recipe_of(config, package))
    config.ckpt_path = str(find_checkpoint(folder, "best", "last", "previous"))
    return folder


def check_same_settings(settings: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if a rank has other settings than rank 0."""
    first = _flat(settings[0])
    for rank, other in enumerate(map(_flat, settings)):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                raise UserError(
                    f"{key} is {first.get(key)} on rank 0 and {other.get(key)} on rank {rank}."
                    " Start all processes with the same command and configuration."
                )


def check_same_data(fingerprints: Sequence[str]) -> None:
    """Raise UserError if a rank has other data than rank 0."""
    others = [str(rank) for rank, found in enumerate(fingerprints) if found != fingerprints[0]]
    if others:
        raise UserError(
            f"The data of rank 0 and of rank {', '.join(others)} differ. Copy the same files to all"
            " hosts."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
