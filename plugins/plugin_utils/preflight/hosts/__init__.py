"""Checks of what was found on the hosts."""
