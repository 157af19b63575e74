"""Errors a user can cause, with the exit code of the command. Imports nothing, so that ``mamoe --help`` is instant."""


class MamoeError(ValueError):
    """A mistake the user can mend. The message says what was wanted, what came, where, and what to do."""

    exit_code = 2


class ConfigError(MamoeError):
    """The configuration asks for something that does not exist or does not fit."""


class DatasetError(MamoeError):
    """Files of a data set are missing, unreadable or contradict each other."""

    exit_code = 3


class NonFiniteLossError(MamoeError):
    """The loss became NaN or infinite; the weights were not changed by that step."""

    exit_code = 4
