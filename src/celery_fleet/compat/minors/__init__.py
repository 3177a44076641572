"""A module for each minor of Celery and of kombu, with what differs from the next newer one.

They run in the application's processes. Only ``chosen`` selects them, by the installed versions; everything else
imports ``chosen``. The module of an older minor takes all names of the newer one and overrides what differs.
"""
