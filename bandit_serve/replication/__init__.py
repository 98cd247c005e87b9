"""Replication: following logs, replaying them, and waiting until every worker has."""
