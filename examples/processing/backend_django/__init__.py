"""Requests that a worker processes while the person who made them polls their state."""
