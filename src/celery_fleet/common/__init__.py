"""Helpers for every other package; standard library only.

They run in any Python on a host: the release's, the system's and that of the operator's command.
"""
