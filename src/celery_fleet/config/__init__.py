"""The inventory's settings: read, checked, and pinned over the application's."""
