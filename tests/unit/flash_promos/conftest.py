"""Fixtures: the example application."""

from tests.unit.django_example import example, read, run, served

__all__ = ["example", "read", "run", "served"]
