"""Types of the HTTP contract."""
