"""Everything that depends on a minor of Celery, kombu, redis-py or gevent; read it first before supporting a new one.

The modules read private attributes in the form of Celery 5.7 and kombu 5.7. What is read was checked in the sources of
5.7.0, and each function names the place. What differs in an older minor is in `minors`, with a module for each; only
`minors.chosen` chooses one. What only one part of `delivery` reads is in that part's `internals.py`.
"""
