"""Schedules in the application's database (django_celery_beat)."""
