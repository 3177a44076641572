"""Helpers of the tests on hosts, by subject."""
