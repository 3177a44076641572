"""Restores a Redis instance from a snapshot. Runs on the host, inside the `redis_restore` module, as root.

Only the standard library.
"""
