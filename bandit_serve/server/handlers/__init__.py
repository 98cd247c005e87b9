"""Handlers of the routes: each reads the body, calls the service or its node, and answers."""
