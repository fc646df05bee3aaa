"""The one kind of error that is the user's to mend."""


class InputError(Exception):
    """
    What was given cannot be used; the message says what is wrong and what to do.

    The command line prints the message as one line and exits with 1; the nodes refuse to configure
    with it. Anything else that is raised is a defect of this package.
    """
