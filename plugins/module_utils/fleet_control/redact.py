"""What a person may see of a program's own words."""

from __future__ import annotations

import re

# To the last @ of the word: a password may hold any character but a blank.
_URL_LOGIN = re.compile(r"(?<=://)\S*@")


def hide_logins(text: str) -> str:
    """The text with users and passwords of URLs replaced."""
    return _URL_LOGIN.sub("***@", text)
