"""The errors a user is meant to read."""


class InputError(Exception):
    """The user's input is wrong: a file, a line, a key, a checkpoint.

    The message is one line: where (file, line or key), what is wrong, what would be right.
    The command line prints it and exits with status 2; nothing half-written is left behind.
    """


class TrainingError(RuntimeError):
    """Training went wrong and cannot go on: a loss that is not finite. One line names the step and the rows in it."""


class BenchError(RuntimeError):
    """A comparison that cannot be made: the results differ, or one of the two sides failed. One line."""
