"""Beat's life and its schedule.

``steps`` and ``loaded`` run in beat's process and write only to its runtime directory. ``due`` is a program for the
release's Python; the check of a release uses ``described`` there. A schedule in a database is in ``database``.
"""
