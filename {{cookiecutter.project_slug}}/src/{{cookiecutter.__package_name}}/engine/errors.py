"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: the message says what was found, what was expected, what to do.

    `python -m <package>` prints it without a traceback and exits with 2.
    """
