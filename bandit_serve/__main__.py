"""`python -m bandit_serve`."""

from bandit_serve.cli import main

main()
