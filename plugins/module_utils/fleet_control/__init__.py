"""Typed logic behind the fleet's plugins: what runs on the control side, or is sent to a host by a module."""
