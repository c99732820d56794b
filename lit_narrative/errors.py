"""What a person did wrong and can put right."""


class UserError(Exception):
    """A wrong path, name or value that a person gave.

    The command line prints it as one line, ``error: …``, and ends with exit code 2 and no traceback. The message says
    what was given, what was expected, and what to change.
    """
