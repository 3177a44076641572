"""Checks of a host that a timer runs."""
