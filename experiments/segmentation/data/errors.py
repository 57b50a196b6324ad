"""The one exception of everything that is wrong with a data set."""


class DataError(Exception):
    """A data set on disk is missing, incomplete or damaged; the message says what to do."""
