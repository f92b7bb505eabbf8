"""The exception for errors that a user causes."""


class SaebenchError(Exception):
    """An argument, a file or the environment of the user is invalid.

    Its message is one plain sentence that says what is wrong and what to do. The command line prints it and exits
    with code 2; the library raises it.
    """
