"""Experimentation and serving: live prediction traffic over model versions, by bandits or A/B tests."""

from importlib.metadata import version

__version__ = version("bandit-serve")
