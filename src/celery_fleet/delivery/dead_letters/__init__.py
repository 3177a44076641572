"""Keep messages that can't be run as dead letters, with the reason, and list, replay or drop them.

A worker writes them to the broker, below the names in :mod:`celery_fleet.delivery.keys`. The operator's programs in
:mod:`celery_fleet.ops` list, replay and drop them.
"""
