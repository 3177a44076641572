"""The health checks that a timer runs on each host."""
