"""Checks of what hosts show."""
