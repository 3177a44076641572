"""Renew the messages that a worker holds, and return those that no worker holds any more.

It runs in a worker, in a thread with its own connection, and writes only to the broker.
"""
