"""Everything that depends on a version of Celery, kombu, redis-py or gevent.

Read this first before supporting a new minor.
"""
