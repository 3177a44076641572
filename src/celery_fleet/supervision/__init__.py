"""Report a process's state to systemd: readiness, watchdog, and whether the broker answers."""
