"""Return the messages of a process that has died.

``worker_side`` runs in a worker and leaves a record in its runtime directory. ``put_back`` runs after its end, in
:mod:`celery_fleet.system.hand_back`, and moves messages from ``unacked`` to their queues.
"""
