"""Tests of the catalog: `python manage.py test`."""
