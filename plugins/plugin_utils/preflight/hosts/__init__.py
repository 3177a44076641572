"""Checks what was found on the hosts."""
