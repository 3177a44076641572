"""The part of Celery Fleet that runs on the hosts, next to an application and without changing it.

The package is put on ``PYTHONPATH`` and loaded through Celery's own extension point,
``CELERY_LOADER=celery_fleet.loader.FleetLoader``. It needs nothing but the installed Celery.

Which setting wins (the strongest first)
----------------------------------------
1. Options of a call or a task: ``apply_async(queue=…)``, ``@app.task(acks_late=…)``. Only
   ``task_annotations`` in the inventory overrides a task's own options.
2. The command line of the process, if Celery has a flag. The unit sets it, so it comes from the inventory.
3. The inventory's settings (``settings.json``), pinned over ``app.conf``. A later write by the
   application has no effect, in place or through any spelling of the name.
4. The runtime's own needs (:data:`celery_fleet.config.settings.ESSENTIALS`), such as reconnecting
   forever. The inventory may override them.
5. The application's settings, however it sets them.
6. Celery's defaults.

``beat_schedule`` is merged by entry name (policy ``add``): the inventory's entry replaces the
application's entry of the same name, ``enabled: false`` removes it, and all others stay. A release
with a different entry of that name is refused earlier, when it is checked. With ``replace`` only the
inventory's schedule counts, with ``refuse`` only the application's.

``CELERY_BROKER_URL``, ``CELERY_RESULT_BACKEND``, ``CELERY_BROKER_READ_URL`` and
``CELERY_BROKER_WRITE_URL`` would beat all of these, because Celery reads them before its settings.
The units and the launcher remove them from the environment, and the loader does so again. Only a
process that is started in another way and reads ``app.conf.broker_url`` before any other setting
still sees them. ``Celery(loader=…)`` in an application beats ``CELERY_LOADER`` and disables the pins.
"""

__version__ = "0.1.0"
