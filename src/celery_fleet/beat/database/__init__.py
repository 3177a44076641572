"""Schedules in the application's database (django_celery_beat).

``scheduler`` runs in beat's process and does not write the schedule. ``program`` runs in the release's Python, for the
control node and the operator's command. It writes django_celery_beat's tables and one of our own in that database.
"""
