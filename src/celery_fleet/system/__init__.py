"""Programs that systemd starts with the system's Python; standard library only."""
