"""The state of an experiment and of all, as their logs say it is."""
