"""The commands of ``celery-fleet``, a module for each."""
