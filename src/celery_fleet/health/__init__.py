"""The health checks that a timer runs on each host.

``program`` runs as root with the system's Python, without Celery. The checks change nothing: only the result file is
written, and a change runs the user's command. What needs Celery or the application is asked in the release's
Python, as the application's user.
"""
