"""Removes an application from a host.

Runs on hosts, as root, inside the module `remove_application`. `look` and `application` only read.
"""
