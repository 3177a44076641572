"""Code of the plugins that run on the control node."""
