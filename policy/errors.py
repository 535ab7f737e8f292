"""The one error type whose message is meant for the user as it stands."""


class UserError(Exception):
    """Bad input from outside (configuration, file, argument).

    The message is one line that names the key, file or line at fault; the command line prints it
    without a traceback and exits with code 2.
    """
