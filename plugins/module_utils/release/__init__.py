"""Builds releases and reads their notes.

Builds run on hosts, as root, inside the module `release`; the application's user runs what its packages bring. Notes
are read on hosts and on the control node.
"""
