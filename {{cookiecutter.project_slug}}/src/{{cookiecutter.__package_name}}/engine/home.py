"""Give this process a user's name, a home and a cache folder where the system has none.

In a container the user's id may have no name, or the home folder may belong to somebody else.
torch, matplotlib and wandb ask for them, each in its own way.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from .paths import cache_folder, is_writable, spare_cache_folder
from .ranks import is_rank_zero

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where Python looks for the user's name


def settle() -> None:
    """Set USER, HOME and XDG_CACHE_HOME for this process and its children, as far as needed.

    Prints one line if caches can't be where they belong.
    """
    if not any(map(os.environ.get, NAMES)) and not _has_name():
        os.environ["USER"] = f"user-{os.getuid()}"
    with suppress(OSError):  # no folder can be written to: do without caches
        usual = cache_folder()
        if not is_writable(usual):
            spare = os.environ["XDG_CACHE_HOME"] = str(spare_cache_folder())
            if is_rank_zero():
                print(f"note: {usual} can't be written to; caches are in {spare}.", file=sys.stderr)
        if not _has_home():  # libraries would create a folder of the name ~
            os.environ["HOME"] = str(spare_cache_folder())


def _has_name() -> bool:
    try:
        import pwd

        return bool(pwd.getpwuid(os.getuid()).pw_name)
    except (ImportError, KeyError):
        return False


def _has_home() -> bool:
    try:
        return bool(Path.home())
    except RuntimeError:
        return False
