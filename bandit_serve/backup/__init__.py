"""Backups: one file that holds a service, taken while it runs, and its restore."""
