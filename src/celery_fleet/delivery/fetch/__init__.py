"""Fetch a message in one atomic step.

It runs in a worker and replaces parts of kombu's Redis transport there. On the broker it moves messages from the lists
of queues to ``unacked``.
"""
