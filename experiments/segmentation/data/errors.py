"""The exception for everything that is wrong with a data set."""

from experiments.common.program import UserError


class DataError(UserError):
    """A data set on disk is missing, incomplete or damaged; the message says what to do.

    It is an exception of its own because a sample that raises it may be skipped.
    """
