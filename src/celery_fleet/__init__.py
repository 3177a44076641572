"""What Celery Fleet runs on the hosts, beside an application and without touching it.

The package is put on ``PYTHONPATH`` and entered through Celery's own extension point,
``CELERY_LOADER=celery_fleet.loader.FleetLoader``. It needs nothing but the Celery that it finds.

Which setting wins (the strongest first)
----------------------------------------
1. What a call or a task says itself: ``apply_async(queue=…)``, ``@app.task(acks_late=…)``. Only
   ``task_annotations`` in the inventory reaches over a task's own options.
2. The command line of the process, where Celery has a flag: it is the unit's, so the inventory's.
3. The inventory's settings (``settings.json``): pinned over ``app.conf``. A later write by the
   application, through any spelling of the name or in place, has no effect.
4. The runtime's own needs (:data:`celery_fleet.config.settings.ESSENTIALS`), such as reconnecting for
   ever; the inventory may say otherwise.
5. The application's settings, however it sets them.
6. Celery's defaults.

``beat_schedule`` is merged by entry name (policy ``add``): the inventory's entry stands in place of the
application's of the same name, ``enabled: false`` removes it, all others stay. A release whose entry
of that name says something else is refused before it gets so far. With ``replace`` the inventory's
schedule is the whole, with ``refuse`` the application's.

``CELERY_BROKER_URL``, ``CELERY_RESULT_BACKEND``, ``CELERY_BROKER_READ_URL`` and
``CELERY_BROKER_WRITE_URL`` would beat all of these, since Celery reads them before its settings.
The units and the launcher take them out of the environment, and the loader does so again; a
process started in another way that reads ``app.conf.broker_url`` before any other setting would
still see them. ``Celery(loader=…)`` in an application beats ``CELERY_LOADER`` and switches the
pins off.
"""

__version__ = "0.1.0"
