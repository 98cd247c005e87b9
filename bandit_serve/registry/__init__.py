"""Versions of models: their statuses, their artifacts, and those that are loaded."""
