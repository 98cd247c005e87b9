"""Folds of logs: the state of an experiment, and of all."""
