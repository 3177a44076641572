"""A module for each minor of Celery and of kombu, with what differs from the next newer one."""
