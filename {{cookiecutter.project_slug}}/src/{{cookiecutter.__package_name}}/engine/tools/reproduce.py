"""Retrain a recorded run and compare the results bit by bit.

The recorded source is unpacked in the run's folder and trained with the recorded configuration, in
the current environment and on the current data. Exit status: 0 identical; 1 different; 2 different
or not trainable in a different environment or on different data, or nothing to compare.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..cli.project import Project
from ..decisions import applied, get
from ..errors import UserError
from ..hashing import sha256
from ..paths import project_root, shown
from ..plurals import plural
from ..run.differences import IGNORED, differences, flat
from ..run.digests import Digests
from ..run.environment import not_as_locked
from ..run.folder import RUN_FOLDER_VARIABLE, UNLISTED_VARIABLE, find_run
from ..run.interruption import passing_on_sigterm
from ..run.runs import read_record
from ..run.source import changed_source
from .reproduced_part import DRAFT, configuration, part_of, repeated, without_time_limits


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    run = find_run(project_root(), options.run)
    into = options.into or run / "reproduce"
    return reproduce(project.package, run, into, options.until, flags)


def reproduce(package: str, run: Path, into: Path, until: int | None, flags: list[str]) -> int:
    """Retrain a run in the folder `into`, print how the two compare, return the exit status.

    `flags` are added to those of fit. Raises UserError if the run can't be retrained.
    """
    record = read_record(run / "run.json")
    part = part_of(run, record, until)
    check_one_run(run, record, part.until)
    source = unpack(run, record, into)
    if part.reason:
        print(f"The run was cut short ({part.reason}): repeating it up to step {part.until}")
    for line in (unlocked := not_as_locked(source)):
        print(f"environment: {line}")
    command = [sys.executable, "-m", package, "fit", "--config", str(configuration(run, into))]
    command += ["--tracking.wandb=false", "--tracking.tensorboard=false"]
    if "compile" in record:  # from before 0.1.0: repeat the decision
        command.append(f"--model.compile={record['compile']['mode'] or 'false'}")
    else:
        command.append(f"--decisions={run / 'run.json'}")
    command += [f"--until={part.until}"] if part.until is not None else []
    again = into / "run"
    status, differs = train(command + flags, source, again, record)
    differs = unlocked + differs
    if status:
        if differs:
            _print_environment(differs)
            return 2
        raise UserError(f"Retraining failed with exit status {status}: see above.")
    return compare(part.expected, repeated(again, part), part.until, differs)


def check_one_run(run: Path, record: dict[str, Any], until: int | None) -> None:
    """Raise UserError if settings or source changed in a resume before step `until`."""
    if get(applied(record), "trainer.num_nodes", 1) > 1:
        raise UserError("The run was trained on several machines. That can't be reproduced on one.")
    before = record | {"resumes": []}
    for resume in record["resumes"]:
        was, now = (dict(flat(without_time_limits(applied(start)))) for start in (before, resume))
        changed = [
            f"{key} {was.get(key)} -> {now.get(key)}"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key) and not key.startswith(IGNORED)
        ]
        changed += changed_source(_archive(run, before), _archive(run, resume))
        step = resume.get("from_step", 0)
        if changed and (until is None or until > step):
            raise UserError(
                f"Settings changed in the resume after step {step}: {', '.join(changed)}."
                f" Compare only the steps before: --until {step}"
            )
        before = resume


def unpack(run: Path, record: dict[str, Any], into: Path) -> Path:
    """Unpack the recorded source into a new folder and return it.

    Raises:
        UserError: the source is missing or was changed, or `into` can't be written to.
    """
    archive = _archive(run, record)
    try:
        if into.exists():
            if other := {path.name for path in into.iterdir()} - {"source", "run", DRAFT}:
                raise UserError(f"{into} contains {min(other)}. Choose a new folder with --into.")
            shutil.rmtree(into)
        with zipfile.ZipFile(archive) as pack:
            pack.extractall(into / "source")
        (into / "run").mkdir()
    except OSError as error:
        raise UserError(
            f"{into} can't be written to: {error.strerror}. Choose another with --into."
        ) from error
    return into / "source"


def train(
    command: list[str], source: Path, again: Path, record: dict[str, Any]
) -> tuple[int, list[str]]:
    """Run the command with the unpacked source; return its status and what differs around it.

    Differences of environment and data are printed as soon as they are known. If the data differ,
    the training is stopped.
    """
    print(f"Retraining from the recorded source in {shown(source)}", flush=True)
    with tempfile.TemporaryDirectory() as empty:  # an empty cache, so that all data are read again
        environment = {**os.environ, "PYTHONPATH": str(source / "src"), "XDG_CACHE_HOME": empty}
        environment |= {"TORCH_HOME": str(Path(torch.hub.get_dir()).parent)}
        environment |= {RUN_FOLDER_VARIABLE: str(again), UNLISTED_VARIABLE: "1"}
        process = subprocess.Popen(command, env=environment)
        try:
            with passing_on_sigterm(process):
                while process.poll() is None and "numerics" not in _record(again):
                    time.sleep(0.3)
                differs = list(differences(record, _record(again)))
                for line in differs:
                    print(f"environment: {line}", flush=True)
                if any(line.startswith("data") for line in differs):
                    process.terminate()
                return process.wait(), differs
        except KeyboardInterrupt:  # the training has received it too
            raise SystemExit(process.wait()) from None


def compare(then: Digests, now: Digests, until: int | None, differs: list[str]) -> int:
    """Print whether two runs are identical up to a step, or where they differ first.

    Returns the exit status.
    """
    end = float("inf") if until is None else until
    steps = [step for step in then["losses"] if int(step) < end]
    differing = [step for step in steps if now["losses"].get(step) != then["losses"][step]]
    names = [(part, name) for part in ("weights", "optimizer") for name in then[part]]
    tensors = [(part, name) for part, name in names if now[part].get(name) != then[part][name]]
    if not steps and not names:
        raise UserError("The run's folder has no losses and no digests to compare with.")
    if not differing and not tensors:
        losses = f"{len(steps)} {plural(len(steps), 'loss', 'losses')}"
        tensors_too = f" and {len(names)} {plural(len(names), 'tensor')}" if names else ""
        rest = "" if until is None else f", up to step {until}"
        print(f"\nidentical: {losses}{tensors_too}{rest}, bit for bit")
        return 0
    print("\ndifferent")
    if differing:
        was, is_ = (float.fromhex(d["losses"].get(differing[0], "nan")) for d in (then, now))
        print(f"  first step    {differing[0]}: its loss was {was}, is {is_}")
    if tensors:
        part, name = tensors[0]
        print(f"  first tensor  {name} ({part}); {len(tensors)} of {len(names)} differ")
    _print_environment(differs)
    return 2 if differs else 1


def _archive(run: Path, start: dict[str, Any]) -> Path:
    """Return the source archive of a start. Raises UserError if it is missing or was changed."""
    archive = run / start["source"]["zip"]
    if not archive.is_file() or sha256(archive) != start["source"]["sha256"]:
        raise UserError(f"{archive} is missing or has changed since the run. Restore it.")
    return archive


def _print_environment(differs: list[str]) -> None:
    print("  environment   " + "\n                ".join(differs or ["no difference"]))


def _record(folder: Path) -> dict[str, Any]:
    file = folder / "run.json"
    return json.loads(file.read_text()) if file.exists() else {}
