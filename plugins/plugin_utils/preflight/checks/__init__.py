"""Checks of the inventory, one topic per file. Each yields the problems that it finds."""
