"""What an experiment is, and what is refused."""
