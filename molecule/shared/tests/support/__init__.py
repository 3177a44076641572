"""Helpers for tests on hosts, by subject."""
