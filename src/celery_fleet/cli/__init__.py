"""``celery-fleet``, the operator's command on the hosts.

It runs in a virtualenv of its own, with click and rich, and imports neither Celery nor an application: what needs these
is asked in the release's Python, by :mod:`celery_fleet.ops.questions` and :mod:`celery_fleet.system.exec`.

=================  =======================================================================
``wrapper``        ``/usr/local/bin/celery-fleet``: finds the virtualenv; the standard library alone
``application``    what the host's ``cli.json`` says of an application
``ask``            questions to the release's Python, each with a bound in time
``units``          systemd's view of units
``output``         tables and JSON
``errors``         how a command ends that can't go on; the exit codes
``main``           the command line; one module below ``commands`` for each command
=================  =======================================================================
"""
