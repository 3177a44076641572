"""Removes an application from a host."""
