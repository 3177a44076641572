"""Checks of the inventory, one topic per file. Each yields the problems that it finds.

They run on the control node, before any host is called, and change nothing.
"""
