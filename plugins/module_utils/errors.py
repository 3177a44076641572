"""The base class of errors that users read."""


class UserError(Exception):
    """An error whose message tells the person who runs a play what is wrong and what to do."""
