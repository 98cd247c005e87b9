"""Versions in memory, ready to score requests, whatever their kind."""
