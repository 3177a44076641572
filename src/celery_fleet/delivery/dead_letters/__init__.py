"""Keep messages that can't be run."""
