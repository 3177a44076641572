"""Checks a new release in its own Python before it goes live.

It runs on a host, as the application's user, while a release is built. It imports the application and prints JSON; it
writes nothing and asks no broker.
"""
