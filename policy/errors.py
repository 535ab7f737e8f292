"""The errors that the user sees as one line, without a traceback."""


class UserError(Exception):
    """The input is wrong: a configuration, a file or an argument. Exit code 2.

    The message names the key, the file or the line at fault.
    """


class RunFailed(Exception):
    """A run with correct input cannot go on, e.g. a worker died or a disk is full. Exit code 1.

    The message names who or what failed.
    """


class Stopped(Exception):
    """The user, or the operator of the cluster, stopped a run. Exit code 130."""
