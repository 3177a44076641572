"""Refuses an inventory or a host that can't become a fleet, before anything is changed."""
