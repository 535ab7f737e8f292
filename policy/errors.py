"""The errors whose messages are meant for the user as they stand: one line, without a traceback."""


class UserError(Exception):
    """Bad input from outside: a configuration, a file, an argument. Exit code 2.

    The message names the key, the file or the line at fault.
    """


class RunFailed(Exception):
    """A run cannot go on although its input was sound: a worker died, a disk is full. Exit code 1.

    The message names who or what failed.
    """


class Stopped(Exception):
    """The user, or whoever runs the cluster, stopped a run. Exit code 130."""
