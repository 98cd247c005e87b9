"""Decisions that wait for their rewards."""
