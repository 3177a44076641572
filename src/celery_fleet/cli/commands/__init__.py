"""The commands of ``celery-fleet``, a module for each.

They run on a host, in the command's own virtualenv, as the user who types them, and import neither Celery nor the
application.
"""
