"""Handlers of the routes. Each reads the body, calls the service or its node, and answers."""
