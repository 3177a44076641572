"""Renew the messages that a worker holds, and return those that no worker holds any more."""
