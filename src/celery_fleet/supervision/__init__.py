"""Report to systemd and journald: readiness, watchdog and log; and whether the broker answers.

It runs in the processes of workers and beat, and writes only to the sockets of systemd and journald, and to standard
error. ``broker`` asks the broker and the result store on separate connections, also for the programs in
:mod:`celery_fleet.ops`.
"""
