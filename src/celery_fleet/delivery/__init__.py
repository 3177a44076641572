"""Delivery: run every task that was sent, even if a process, a host or a connection dies.

Stock kombu pops a message from its list and writes it into the hash ``unacked`` in a second step. A process that dies
in between loses the message. Here one script does both, in kombu's own formats, so stock and atomic workers, Flower
and ``celery inspect`` work side by side. The parts, from the bottom up; each imports only those above it:

* ``outage``: a broker that hangs never blocks the event loop, and tasks outlive a lost connection;
* ``dead_letters``: messages that can't be run are kept with the reason instead of being dropped;
* ``hand_back``: the unit of a process that died returns the messages it held;
* ``fetch``: the script that fetches a message, and the transport that uses it;
* ``lease``: a worker renews the times of its messages in ``unacked_index``, so a short visibility timeout is safe for
  long tasks and distant ETAs. If a worker stops renewing, the sweep of any other worker returns its messages.

The tag of each delivery names its *owner* (:mod:`celery_fleet.delivery.messages`): the node and the start of its
process. This distinguishes the messages of two processes. A late acknowledgement can't affect a later delivery.
:class:`celery_fleet.delivery.options.Options` says which parts are enabled.
"""
