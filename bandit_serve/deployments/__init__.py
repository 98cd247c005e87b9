"""Deployments: what others need to run the service, or a version of a model, for us."""
