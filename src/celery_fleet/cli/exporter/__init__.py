"""``python -m celery_fleet.cli.exporter APP``: serves a host's metrics to Prometheus, from the command's virtualenv.

It reads files that workers, beat and the health check write, and asks systemd. On one host of a fleet it also asks
Redis. It never asks a worker and takes no events, so it can't slow one down.

==============  ============================================================================
``table``       every metric: name, type, labels, meaning, source and cost
``samples``     values of metrics, and their text for Prometheus
``places``      where the files are, and how they are read
``workers``     a worker's file
``beat``        beat's files
``host``        units, releases, disks, memory, certificates, the result of the health check
``broker``      the Redis instances, and the queues on the broker
``collect``     collects all parts side by side, each with its own errors
``server``      answers HTTP on a Unix socket or on the loopback
==============  ============================================================================
"""
