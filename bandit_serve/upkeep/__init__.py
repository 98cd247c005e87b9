"""The lease holder's chores."""
