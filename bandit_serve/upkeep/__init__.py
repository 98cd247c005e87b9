"""Upkeep: the lease holder's chores."""
