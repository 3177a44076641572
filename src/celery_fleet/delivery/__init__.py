"""Delivery: a task that was sent is run, once, whatever dies.

Stock kombu pops a message from its list and writes it into the hash ``unacked`` in a second step. What dies in
between loses the message. Here one script does both, in kombu's own formats, so that stock and atomic workers, Flower
and ``celery inspect`` work side by side. The parts, from the bottom up; each imports only those above it:

* ``outage``: a broker that hangs never blocks the event loop, and tasks go on through a lost connection;
* ``dead_letters``: what can't be run is kept with its reason instead of being dropped;
* ``hand_back``: the unit of a process that died returns what it held;
* ``fetch``: the script that takes a message, and the transport that uses it;
* ``lease``: the owner renews its messages' places in ``unacked_index``, so that a short visibility timeout is safe for
  long tasks and distant ETAs. A sweep by any worker returns what no lease covers any more.

Each delivery's tag names its *owner*, node and process start (:mod:`celery_fleet.delivery.tags`). So what one process
held can be told from what another one holds, and a stale acknowledgement can't touch a later delivery.
:class:`celery_fleet.delivery.options.Options` says which parts are on.
"""
