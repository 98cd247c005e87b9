"""Log of an experiment: its events, their bytes and places, its reader, and snapshots of what is folded from it."""
