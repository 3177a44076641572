"""kombu 5.3, which is as 5.4 in all that is read. Checked in the source of kombu 5.3.7."""

from celery_fleet.minors.kombu54 import *  # noqa: F403  # all of it
