"""Makes a new environment: its options, what is refused of them, the files that are made, their way to disk."""
