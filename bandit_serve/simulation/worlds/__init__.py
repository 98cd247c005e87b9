"""Worlds that policies are tried in."""
