"""How a process reports to systemd: readiness, watchdog, and whether the broker answers."""
