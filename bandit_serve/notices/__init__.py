"""Notices: what webhooks are told of, found in folds and workers, and delivered by the worker with the lease."""
