"""A worker's life: readiness, drain, canary; the metrics and the history of its tasks.

It runs in a worker's process, installed by the loader. It writes ``drain.json`` in the unit's state directory and the
file of metrics for the host's exporter, adds the history to the result store, and returns messages to their queues.
"""
