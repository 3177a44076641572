"""Checks the facts of the hosts against the inventory."""
