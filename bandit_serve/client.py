"""Client of a service: the package `bandit_serve_client`, by the name of this one."""

from bandit_serve_client import *  # noqa: F403
from bandit_serve_client import __all__ as __all__
