"""The application's own tests: on SQLite, and with DATABASE_URL on PostgreSQL, where more of them run."""
