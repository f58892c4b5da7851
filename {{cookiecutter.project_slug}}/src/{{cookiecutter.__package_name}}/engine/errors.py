"""The exceptions whose message is for the user."""

import difflib
import errno
from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota or the limit of a file's size


class UserError(Exception):
    """An error that the user can fix: the message says what was found, expected, and what to do.

    `python -m <package>` prints it without a traceback and exits with `status`.
    """

    status = 2


class Diverged(UserError):
    """The loss or the weights are no longer finite."""

    status = 4


def hint(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean …?" with the closest of the known names; "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
