"""What each route does: read the body, call the house, answer."""
