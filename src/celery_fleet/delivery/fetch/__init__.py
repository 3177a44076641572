"""Fetch a message in one atomic step."""
