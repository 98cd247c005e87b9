"""Learning on from the log, while a model serves."""
