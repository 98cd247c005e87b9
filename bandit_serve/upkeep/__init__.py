"""Upkeep of the store, done by the worker that holds the lease."""
