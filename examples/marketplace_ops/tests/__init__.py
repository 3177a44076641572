"""The application's own tests: on SQLite, or with DATABASE_URL on PostgreSQL, where more of them run."""
