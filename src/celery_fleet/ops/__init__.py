"""Programs that run in the release's Python (`python -m`) for the command line tool and the control node."""
