"""What the tests of hosts share, by subject."""
