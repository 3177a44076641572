"""Checks a new release in its own Python before it goes live."""
