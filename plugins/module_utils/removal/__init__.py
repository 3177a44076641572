"""Takes an application off a host."""
