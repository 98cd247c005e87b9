"""Helpers that any program could use. Nothing here knows what a bandit is."""
