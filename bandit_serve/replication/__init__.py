"""Following logs, replaying them, and knowing that every worker has heard."""
