"""Delivery: a task that was sent is run, once, whatever dies.

Stock kombu pops a message from its list and writes it into the hash ``unacked`` in a second step; what
dies in between loses the message. Here one script does both, in kombu's own formats, so that stock and
atomic workers, Flower and ``celery inspect`` work side by side. On top of it stand:

* an *owner* in each delivery's tag: node and process start (:mod:`celery_fleet.delivery.tags`), so that
  what a process held can be told from what another one holds, and a stale acknowledgement can't touch a
  later delivery;
* a *hand-back* by the unit of a process that died, and a *sweep* by any worker of what no lease covers
  any more;
* a *lease*: the owner renews its messages' places in ``unacked_index``, so that a short visibility
  timeout is safe for long tasks and distant ETAs;
* an event loop that is never blocked by a broker that hangs, and tasks that go on through a lost
  connection;
* *dead letters*: what can't be run is kept with its reason instead of being dropped.

What of it is on is said by :class:`celery_fleet.delivery.options.Options`.
"""
