"""A worker's life: readiness, drain, canary.

It runs in a worker's process, installed by the loader. It writes ``drain.json`` in the unit's state directory, and
returns messages to their queues.
"""
