"""``celery-fleet``, the operator's command on the hosts.

It runs in a separate virtualenv with click and rich, and imports neither Celery nor an application. What needs these
runs in the release's Python, through :mod:`celery_fleet.ops` and :mod:`celery_fleet.system.exec`.

=================  =======================================================================
``wrapper``        ``/usr/local/bin/celery-fleet``: finds the virtualenv; standard library only
``application``    an application, as the host's ``cli.json`` describes it
``ask``            questions to the release's Python, each with a time limit
``units``          systemd's view of units
``output``         tables and JSON
``errors``         errors and exit codes
``main``           the command line; ``commands`` has one module for each command
``exporter``       a program by itself: it serves metrics, and imports nothing else from here
=================  =======================================================================
"""
