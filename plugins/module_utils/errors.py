"""The base class of errors that users read."""


class UserError(Exception):
    """An error with a message for users: what is wrong, and what to do."""
