"""Return the messages of a process that has died."""
