"""The one exception a user is meant to read."""


class SaebenchError(Exception):
    """Something the user gave or has is not right.

    Its message is one plain sentence that says what is wrong and what to do. The command line prints it and exits
    with code 2; the library raises it.
    """
