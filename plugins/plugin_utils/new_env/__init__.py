"""Makes a new environment: reads and checks its options, renders its files and writes them to disk."""
