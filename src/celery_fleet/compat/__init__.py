"""Everything that depends on a minor of Celery, kombu, redis-py or gevent; read it before supporting a new minor.

The modules read private attributes as they are in Celery 5.7 and kombu 5.7. They were checked in the sources of 5.7.0,
and each function names the file. `minors` has a module for each older minor with its differences; only `minors.chosen`
picks one. Private attributes that only one part of `delivery` reads are in that part's `internals.py`.
"""
