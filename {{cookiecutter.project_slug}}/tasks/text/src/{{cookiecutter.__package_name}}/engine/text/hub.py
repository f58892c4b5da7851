"""Models of a hub by name, or in a folder: the files of one, downloaded once into the hub's cache.

HF_ENDPOINT chooses a mirror, HF_TOKEN logs in, and HF_HUB_OFFLINE=1 uses only what is in the cache.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..hashing import sha256
from ..paths import resolve_path

CONFIG = ("config.json",)
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
OLD_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model"),
)
COMMIT = re.compile(r"[0-9a-f]{40}")
POINTER = b"version https://git-lfs"  # what Git leaves in place of a file without Git LFS


def files_of(name: str, patterns: Sequence[str], setting: str = "model.network") -> Path:
    """Return a folder with the files of a model that match the patterns, if it has any.

    Args:
        name: a folder, or a name on the hub such as bert-base-uncased; NAME@REVISION is its state
            at a commit, branch or tag.
        patterns: of the files' names, such as CONFIG or WEIGHTS.
        setting: the setting that has this name, for messages.

    Processes that ask for a file at the same time download it once. Raises UserError if the folder
    does not exist or the hub does not send the files.
    """
    if is_path(name):
        folder = resolve_path(name, must_exist=False)
        if not folder.is_dir():
            raise UserError(
                f"{setting} is {name}, but {folder} is not a folder; expected one with"
                f" {_wanted(setting)}."
            )
        return folder
    from huggingface_hub import snapshot_download

    model, _, revision = name.partition("@")
    try:
        with _bars(shown=sys.stderr.isatty() and not {*WEIGHTS, *OLD_WEIGHTS}.isdisjoint(patterns)):
            found = snapshot_download(model, revision=revision or None, allow_patterns=[*patterns])
        return Path(found)
    except Exception as error:  # the hub's client raises exceptions of many types
        raise _explained(error, name, setting) from error


def is_path(name: str) -> bool:
    """Return whether a model's name is that of a folder: it has a config.json or looks like one."""
    looks_like_one = name.startswith((".", "/", "~")) or name.count("/") > 1
    return looks_like_one or (resolve_path(name, must_exist=False) / "config.json").is_file()


def version_of(folder: Path) -> str:
    """Return what identifies the weights in a folder: the hub's commit, or their SHA-256."""
    if COMMIT.fullmatch(folder.name):
        return f"commit {folder.name}"
    digests = [sha256(file)[:16] for file in weights_in(folder)]
    return "sha256 " + ", ".join(digests)


def weights_in(folder: Path) -> list[Path]:
    """Return the files with weights in a folder, those that transformers would load."""
    for patterns in (WEIGHTS, OLD_WEIGHTS):
        found = sorted(file for pattern in patterns[:2] for file in folder.glob(pattern))
        if found:
            return found
    return []


def damage_in(folder: Path) -> str:
    """Return why the weights of a folder can't be read, as far as it shows."""
    for file in weights_in(folder):
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                return f"{file} is only a pointer of Git LFS: run git lfs pull in its folder"
    files = ", ".join(str(file) for file in weights_in(folder))
    return f"{files} is damaged or was not copied to its end: delete it, and copy or download again"


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Keep the client's progress bars from the output, unless they are to be shown."""
    from huggingface_hub import utils

    before = utils.are_progress_bars_disabled()
    if shown or before:
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _explained(error: Exception, name: str, setting: str) -> UserError:
    """Return the error for a model that the hub's client could not get."""
    from huggingface_hub import constants, errors

    found = f"{setting} is {name}"
    refused = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
    status = getattr(getattr(refused, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{found}, which is neither the name of a model on a hub nor a folder.")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{found}, but the model has no such revision. Check it on the hub.")
    if isinstance(refused, errors.GatedRepoError) or status == 403:
        return UserError(
            f"{found}, which {constants.ENDPOINT} does not show to everybody (HTTP {status})."
            " Ask there for access, and set HF_TOKEN to a token of your account."
        )
    if status in (401, 404):
        return UserError(
            f"{found}, but {constants.ENDPOINT} has no such model, or it is private (HTTP"
            f" {status}). Check the name; for a private model, set HF_TOKEN."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled) or not error.__cause__
        why = "HF_HUB_OFFLINE is set" if offline else _first_line(error.__cause__)
        return UserError(
            f"{found}, which is not in the hub's cache, and {constants.ENDPOINT} can't be used"
            f" ({why}). Without a network, copy its files {_wanted(setting)} into a folder, and set"
            f" --{setting} FOLDER; for a mirror of the hub, set HF_ENDPOINT."
        )
    return UserError(
        f"{found}, whose download from {constants.ENDPOINT} broke off ({_first_line(error)}). Run"
        " the command again: it keeps the files that are complete."
    )


def _wanted(setting: str) -> str:
    """Return the names of the files that a folder must have."""
    if setting == "model.network":
        return "config.json and model.safetensors (and tokenizer.json, for --data.tokenizer)"
    return "tokenizer.json and tokenizer_config.json"


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
