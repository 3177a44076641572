"""The application of the proof of restarts: tasks that sleep, and a record of each send, start and end."""
