"""Report a process's state to systemd: readiness, watchdog, and whether the broker answers.

It runs in the processes of workers and beat, and writes only to systemd's notify socket. ``broker`` asks the broker and
the result store on separate connections, also for the programs in :mod:`celery_fleet.ops`.
"""
