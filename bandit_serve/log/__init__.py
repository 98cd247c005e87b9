"""The log: appending to it, following it, and snapshots of what was folded from it."""
