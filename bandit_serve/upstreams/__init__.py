"""Upstreams: services of others, over HTTP, that answer for versions of models."""
